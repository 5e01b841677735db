import type { BackedDelivery } from '@counterfoil/nestjs';
import { Inject, Injectable } from '@nestjs/common';
import { sql } from 'drizzle-orm';
import { DATABASE, type Database } from '../database.module.js';
import { OnServiceEvent } from '../request-context.js';
import { contractActivations, contractBalances } from '../tables.js';
import {
  CONTRACT_ACTIVATED,
  CONTRACT_SIGNED,
  type ContractActivated,
  type ContractSigned,
  SERVICE_CONSUMED,
  type ServiceConsumed,
} from './contract-events.js';

/**
 * What the contract domain learns from its own events. Each listener is one statement that gives the same rows however
 * often and in whatever order the events come: a lost one is replayed long after those that followed it.
 */
@Injectable()
export class ContractListeners {
  constructor(@Inject(DATABASE) private readonly database: Database) {}

  /** Opens the contract's balance, or fills in what a consumption learnt earlier could not know. */
  @OnServiceEvent(CONTRACT_SIGNED)
  async openBalance({ contractId, totalUnits }: ContractSigned): Promise<void> {
    await this.database
      .insert(contractBalances)
      .values({ contractId, totalUnits, openedAt: sql`now()` })
      .onConflictDoUpdate({
        target: contractBalances.contractId,
        set: { totalUnits, openedAt: sql`now()` },
        setWhere: sql`${contractBalances.openedAt} is null`,
      });
  }

  /** Records when the contract became active; the first event that says so stays. */
  @OnServiceEvent(CONTRACT_ACTIVATED)
  async recordActivation(
    { contractId, activatedAt }: ContractActivated,
    { eventId }: BackedDelivery,
  ): Promise<void> {
    await this.database
      .insert(contractActivations)
      .values({ contractId, eventId, activatedAt: new Date(activatedAt) })
      .onConflictDoNothing();
  }

  /** Counts consumed units into the balance, exactly once for each event. */
  @OnServiceEvent(SERVICE_CONSUMED)
  async countConsumption({ contractId, units }: ServiceConsumed, { eventId }: BackedDelivery): Promise<void> {
    await this.database.execute(sql`/* reference-service count-consumption */
with counted as (
  insert into counted_consumptions (event_id, contract_id, units)
  values (${eventId}::text, ${contractId}::uuid, ${units}::integer)
  on conflict (event_id) do nothing
  returning contract_id, units
)
insert into contract_balances as b (contract_id, consumed_units)
select contract_id, units from counted
on conflict (contract_id) do update set consumed_units = b.consumed_units + excluded.consumed_units`);
  }
}
