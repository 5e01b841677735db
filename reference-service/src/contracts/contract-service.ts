import { randomUUID } from 'node:crypto';
import { EventPublisher } from '@counterfoil/nestjs';
import { ConflictException, Inject, Injectable, NotFoundException } from '@nestjs/common';
import { and, eq, sql } from 'drizzle-orm';
import type { ServiceTransaction } from '../database.module.js';
import { FaultInjector } from '../faults/fault-injector.js';
import { type Contract, contracts, type ServiceConsumption, serviceConsumptions } from '../tables.js';
import {
  CONTRACT_ACTIVATED,
  CONTRACT_SIGNED,
  type ContractActivated,
  type ContractSigned,
  SERVICE_CONSUMED,
  type ServiceConsumed,
} from './contract-events.js';

/** A contract to create. */
export interface NewContract {
  /** A new UUID by default. */
  id?: string | undefined;
  mentorId: string;
  currency: string;
  unitPriceMinor: number;
  totalUnits: number;
}

/** Units to consume. */
export interface NewConsumption {
  /** Given, a repeat is recognised by it; a new UUID by default. */
  id?: string | undefined;
  units: number;
}

/** Signs and activates contracts and consumes their units; each publishes in the transaction that does it. */
@Injectable()
export class ContractService {
  constructor(
    @Inject(EventPublisher) private readonly events: EventPublisher<ServiceTransaction>,
    @Inject(FaultInjector) private readonly faults: FaultInjector,
  ) {}

  /** Creates a signed contract and publishes that; 409 where the id is taken. */
  async createContract({ id = randomUUID(), ...terms }: NewContract): Promise<Contract> {
    return await this.events.transaction(async (tx) => {
      const [signed] = await tx.handle
        .insert(contracts)
        .values({ id, ...terms })
        .onConflictDoNothing()
        .returning();
      if (signed === undefined) throw new ConflictException(`contract ${id} exists already`);
      const payload: ContractSigned = { contractId: id, ...terms };
      await this.faults.whilePublishing(tx, CONTRACT_SIGNED, payload, (publishing, published) =>
        this.events.publish(publishing, { name: CONTRACT_SIGNED, payload: published }),
      );
      return signed;
    });
  }

  /** Activates a signed contract and publishes that; active already, it is returned as it is. 404 where there is none. */
  async activateContract(id: string): Promise<Contract> {
    return await this.events.transaction(async (tx) => {
      const [active] = await tx.handle
        .update(contracts)
        .set({ status: 'active', activatedAt: sql`now()` })
        .where(and(eq(contracts.id, id), eq(contracts.status, 'signed')))
        .returning();
      if (active === undefined) return await findContract(tx.handle, id);
      const activatedAt = (active.activatedAt as Date).toISOString();
      const payload: ContractActivated = { contractId: id, activatedAt };
      await this.faults.whilePublishing(tx, CONTRACT_ACTIVATED, payload, (publishing, published) =>
        this.events.publish(publishing, { name: CONTRACT_ACTIVATED, payload: published }),
      );
      return active;
    });
  }

  /**
   * Consumes units of an active contract and publishes that. A consumption whose id is there already is returned as it
   * is. 404 where there is no such contract; 409 where it is not active, where it has not so many units left, and where
   * the id belongs to a consumption of another contract or of other units.
   */
  async consumeService(
    contractId: string,
    { id = randomUUID(), units }: NewConsumption,
  ): Promise<ServiceConsumption> {
    return await this.events.transaction(async (tx) => {
      // Two calls follow each other from here on, so that each sees what the other has left.
      const [contract] = await tx.handle
        .select()
        .from(contracts)
        .where(eq(contracts.id, contractId))
        .for('no key update');
      if (contract === undefined) throw new NotFoundException(`there is no contract ${contractId}`);
      const [known] = await tx.handle
        .select()
        .from(serviceConsumptions)
        .where(eq(serviceConsumptions.id, id));
      if (known?.contractId === contractId && known.units === units) return known;
      if (contract.status !== 'active') throw new ConflictException(`contract ${contractId} is not active`);
      if (contract.consumedUnits + units > contract.totalUnits) {
        throw new ConflictException(`contract ${contractId} has not so many units left`);
      }
      const [consumed] = await tx.handle
        .insert(serviceConsumptions)
        .values({ id, contractId, units })
        .onConflictDoNothing()
        .returning();
      if (consumed === undefined) throw new ConflictException(`consumption ${id} exists already`);
      await tx.handle
        .update(contracts)
        .set({ consumedUnits: sql`${contracts.consumedUnits} + ${units}::integer` })
        .where(eq(contracts.id, contractId));
      const payload: ServiceConsumed = { contractId, consumptionId: id, units };
      await this.faults.whilePublishing(tx, SERVICE_CONSUMED, payload, (publishing, published) =>
        this.events.publish(publishing, { name: SERVICE_CONSUMED, payload: published }),
      );
      return consumed;
    });
  }
}

async function findContract(tx: ServiceTransaction, id: string): Promise<Contract> {
  const [contract] = await tx.select().from(contracts).where(eq(contracts.id, id));
  if (contract === undefined) throw new NotFoundException(`there is no contract ${id}`);
  return contract;
}
