/**
 * Every write that one completion makes, as plain statements: what pgbench and the bare loops send. The service may
 * send several of them together; how many rows are written by one event is the same for all.
 */
import { randomUUID } from 'node:crypto';

/** The listener's name in event_deliveries; as long as the service's own. */
const LISTENER = 'SessionBilling.createPerSessionBilling';

export interface Written {
  readonly sessionId: string;
  readonly eventId: string;
}

type Statement = readonly [text: string, params: readonly string[]];

/** The writes of one completion in order, with the commits they would be made under: publish, bill, mark. */
export function writesOf({ sessionId, eventId }: Written): Record<'publish' | 'bill' | 'mark', Statement[]> {
  const payload = JSON.stringify({
    sessionId,
    contractId: 'contract-1',
    mentorId: 'mentor-1',
    amountMinor: 4_200,
    currency: 'EUR',
  });
  return {
    publish: [
      [
        `update sessions set completed_at = now() where id = $1::uuid and completed_at is null
         returning id, contract_id, mentor_id, amount_minor, currency, created_at, completed_at`,
        [sessionId],
      ],
      [
        `insert into event_backups (event_id, event_name, payload, status)
         values ($1::text, $2::text, $3::jsonb, 'pending')`,
        [eventId, 'services.session.completed.v1', payload],
      ],
    ],
    bill: [
      [
        `insert into event_deliveries (event_id, listener, status, lease_owner, lease_until, attempts)
         values ($1::text, $2::text, 'running', $3::text, clock_timestamp() + interval '30 seconds', 1)`,
        [eventId, LISTENER, 'bench/1/1'],
      ],
      [
        `insert into mentor_payable_ledgers (session_id, mentor_id, amount_minor, currency, idempotency_key)
         values ($1::uuid, 'mentor-1', 4200, 'EUR', $2::text) on conflict (idempotency_key) do nothing
         returning id, session_id, mentor_id, amount_minor, currency, idempotency_key, reverses_id, created_at`,
        [sessionId, `session:${sessionId}:1`],
      ],
    ],
    mark: [
      [
        `update event_deliveries set status = 'succeeded', lease_owner = null, lease_until = null
         where event_id = $1::text and listener = $2::text and status = 'running'`,
        [eventId, LISTENER],
      ],
      [
        `update event_backups set status = 'processed', processed_at = now()
         where event_id = $1::text and status = 'pending'`,
        [eventId],
      ],
    ],
  };
}

/** The same as a script of pgbench, under one commit or three. `:n` counts up within a client. */
export function pgbenchScript(commits: 1 | 3, perClient: number, firstNumber: number): string {
  const writes = writesOf({
    sessionId: '00000000-0000-4000-8000-:n',
    eventId: '00000000-0000-4000-:e-:f',
  });
  const inline = ([text, params]: Statement) =>
    `${text
      .replace(/\$(\d+)/g, (_, number: string) => `'${params[Number(number) - 1]}'`)
      .replace(/\s+/g, ' ')};`;
  const groups =
    commits === 1
      ? [[...writes.publish, ...writes.bill, ...writes.mark]]
      : [writes.publish, writes.bill, writes.mark];
  return [
    '\\set i :i + 1',
    `\\set n ${firstNumber} + :client_id * ${perClient} + :i`,
    // Spread like the random ids of the service: an index that only grows at its end would be cheaper.
    '\\set e random(1000, 9999)',
    '\\set f random(100000000000, 999999999999)',
    ...groups.flatMap((group) => ['begin;', ...group.map(inline), 'commit;']),
    '',
  ].join('\n');
}

export const newWritten = (sessionId: string): Written => ({ sessionId, eventId: randomUUID() });
