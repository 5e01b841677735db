import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type Bench, eventually, openBench, startInProcess } from '../../test/event-replay/bench.ts';
import { TEST_TOKEN } from '../../test/event-replay/endpoint.ts';

let bench: Bench;
beforeAll(async () => {
  bench = await openBench();
});
afterEach(async () => await bench.reset());
afterAll(async () => await bench.close());

const passTime = async () =>
  await bench.database.query(
    `UPDATE counterfoil.replay_events SET next_attempt_at = now() WHERE status = 'due'`,
  );

describe('an endpoint that is away', () => {
  it('burns no attempt however long it lasts, and all is sent when it is back', async () => {
    await bench.addEvents(60);
    await bench.endpoint.close();
    try {
      for (let run = 1; run <= 3; run += 1) {
        const { exitCode, record } = await bench.run({
          CF_HANDLER_ATTEMPTS: '2',
          CF_LANES: '2',
          CF_BATCH_SIZE: '2',
        });
        expect(exitCode).toBe(1);
        expect(record).toMatchObject({
          outcome: 'endpoint_down',
          failure_id: 'endpoint_down',
          counts: { taken_in: run === 1 ? 60 : 0 },
        });
        expect(record.message).toContain('ECONNREFUSED');
        const burnt = await bench.database.query(
          `SELECT event_id FROM counterfoil.replay_events
            WHERE handler_attempts > 0 OR unfinished_calls > 0 OR status <> 'due'`,
        );
        expect(burnt).toEqual([]);
        await passTime();
      }
    } finally {
      await bench.endpoint.open();
    }
    const { record } = await bench.run({ CF_HANDLER_ATTEMPTS: '2' });
    expect(record).toMatchObject({ outcome: 'succeeded', counts: { processed: 60 } });
  });

  it('says so even when there was a single event to send', async () => {
    await bench.addEvents(1);
    await bench.endpoint.close();
    try {
      expect((await bench.run()).record).toMatchObject({ outcome: 'endpoint_down' });
    } finally {
      await bench.endpoint.open();
    }
  });

  it('keeps a continuous run waiting, which goes on by itself when it is back', async () => {
    await bench.addEvents(40);
    await bench.endpoint.close();
    const run = startInProcess(
      bench.environment({ CF_MODE: 'continuous', CF_LANES: '2', CF_BATCH_SIZE: '2' }),
    );
    try {
      await eventually(async () => {
        // Six calls in a row open the circuit; what comes after them is tried one event at a time.
        const tried = await bench.database.query(
          'SELECT event_id FROM counterfoil.replay_events WHERE transport_attempts > 0',
        );
        return tried.length >= 14;
      });
    } finally {
      await bench.endpoint.open();
    }
    await eventually(async () => (await bench.statuses()).done === 40);
    run.stop();
    const { exitCode, log } = await run.ended;
    expect(exitCode, log).toBe(0);
    expect(log).toContain('the replay endpoint is down: backing off');
    expect(log).toContain('the replay endpoint answers again');
    const [burnt] = await bench.database.query(
      'SELECT max(handler_attempts) AS attempts FROM counterfoil.replay_events',
    );
    expect(burnt).toEqual({ attempts: 1 });
  });

  it.each([503, 429])('takes %i with the mark of our module for "nothing was run"', async (status) => {
    await bench.addEvents(1);
    bench.endpoint.misbehave = (_asked, response) => {
      response.writeHead(status, { 'counterfoil-outcome': 'not-started' }).end('{}');
      return true;
    };
    const run = await bench.run();
    expect(run.record.outcome).toBe('endpoint_down');
    expect(await bench.status('e0001')).toMatchObject({
      status: 'due',
      handler_attempts: 0,
      transport_attempts: 1,
      unfinished_calls: 0,
      last_outcome: 'unreached',
      last_error: `http_${status}`,
    });
  });
});

describe('an endpoint that answers badly', () => {
  it.each([503, 429, 408, 425])(
    'does not believe %i of a proxy: such an event is sent alone, and parked while others are answered',
    async (status) => {
      await bench.addEvents(2);
      bench.endpoint.misbehave = (asked, response) => {
        if (!asked.eventIds.includes('e0001')) return false;
        response.writeHead(status).end('upstream connect error');
        return true;
      };
      for (let run = 1; run <= 5; run += 1) {
        await bench.addEvents([{ id: `fresh${run}` }]);
        await bench.run({ CF_LANES: '1' });
        await passTime();
      }
      expect(await bench.status('e0001')).toMatchObject({
        status: 'parked',
        parked_reason: 'crashes_the_service',
        last_outcome: 'no_clear_answer',
        last_error: `http_${status}`,
      });
      expect(await bench.statuses()).toEqual({ done: 6, parked: 1 });
    },
  );

  it.each([
    [
      '500',
      'http_500',
      (response: import('node:http').ServerResponse) => response.writeHead(500).end('oops'),
    ],
    ['garbage', 'answer_not_json', (response: import('node:http').ServerResponse) => response.end('<html>')],
    [
      'another form',
      'answer_malformed',
      (response: import('node:http').ServerResponse) => response.end('{"results":[]}'),
    ],
    [
      'an answer about none of them',
      'answer_empty',
      (response: import('node:http').ServerResponse) =>
        response.end('{"serviceVersion":"1","listenersDigest":"d","results":[]}'),
    ],
    [
      'an endless answer',
      'UND_ERR_RES_EXCEEDED_MAX_SIZE',
      (response: import('node:http').ServerResponse) => response.end('x'.repeat(2_000_000)),
    ],
  ])(
    'does not know the outcome after %s: waits, burns nothing, and ends as endpoint_down',
    async (_what, code, answer) => {
      await bench.addEvents(2);
      bench.endpoint.misbehave = (_asked, response) => {
        answer(response);
        return true;
      };
      const run = await bench.run();
      expect(run.exitCode).toBe(1);
      expect(run.record.outcome).toBe('endpoint_down');
      expect(await bench.status('e0001')).toMatchObject({
        status: 'due',
        claim_token: null,
        handler_attempts: 0,
        transport_attempts: 1,
        last_outcome: 'no_clear_answer',
        last_error: code,
      });
    },
  );

  it('counts a call that was cut in the middle of its answer as unfinished', async () => {
    await bench.addEvents(1);
    bench.endpoint.misbehave = (_asked, response) => {
      response.writeHead(200, { 'content-length': '1000' });
      response.write('{"serviceVersion":', () => response.destroy());
      return true;
    };
    await bench.run();
    expect(await bench.status('e0001')).toMatchObject({
      status: 'due',
      handler_attempts: 0,
      unfinished_calls: 1,
    });
  });

  it('takes silence for an unknown outcome and never for a failure', async () => {
    await bench.addEvents(1);
    bench.endpoint.misbehave = () => true;
    const run = await bench.run({ CF_CALL_SECONDS: '1', CF_LEASE_SECONDS: '2' });
    expect(run.record.outcome).toBe('endpoint_down');
    expect(await bench.status('e0001')).toMatchObject({
      status: 'due',
      handler_attempts: 0,
      transport_attempts: 1,
      last_error: 'timeout',
    });
  });

  it('sends what had no clear answer alone, and parks the one that crashes the service', async () => {
    await bench.addEvents(30);
    bench.endpoint.misbehave = (asked) => {
      if (!asked.eventIds.includes('e0007')) return false;
      bench.endpoint.cut();
      return true;
    };
    const settings = { CF_LANES: '2', CF_BATCH_SIZE: '10' };
    for (let run = 1; run <= 6; run += 1) {
      await bench.run(settings);
      await passTime();
    }
    expect(await bench.statuses()).toEqual({ done: 29, parked: 1 });
    expect(await bench.status('e0007')).toMatchObject({
      parked_reason: 'crashes_the_service',
      unfinished_calls: 3,
    });
    const withPoison = bench.endpoint.calls.filter(({ eventIds }) => eventIds.includes('e0007'));
    expect(withPoison.map(({ eventIds }) => eventIds.length)).toEqual([10, 1, 1]);
  });

  it('parks an event that the endpoint cannot answer for while it answers for all others', async () => {
    await bench.addEvents(5);
    bench.endpoint.misbehave = (asked, response) => {
      if (!asked.eventIds.includes('e0001')) return false;
      response.writeHead(500).end();
      return true;
    };
    for (let run = 1; run <= 6; run += 1) {
      await bench.addEvents([{ id: `fresh${run}` }]);
      await bench.run({ CF_BATCH_SIZE: '5', CF_LANES: '1' });
      await passTime();
    }
    expect(await bench.statuses()).toEqual({ done: 10, parked: 1 });
    expect(await bench.status('e0001')).toMatchObject({ parked_reason: 'crashes_the_service' });
  });
});

describe('an endpoint that refuses', () => {
  it.each([401, 403, 404, 400])(
    'ends the run for good at %i, and gives everything back unburnt',
    async (status) => {
      await bench.addEvents(100);
      bench.endpoint.misbehave = (_asked, response) => {
        response.writeHead(status).end();
        return true;
      };
      const run = await bench.run();
      expect(run.exitCode).toBe(2);
      expect(run.record).toMatchObject({ outcome: 'refused', failure_id: 'endpoint_refused' });
      const touched = await bench.database.query(
        `SELECT event_id FROM counterfoil.replay_events
        WHERE status <> 'due' OR handler_attempts + transport_attempts + unfinished_calls > 0`,
      );
      expect(touched).toEqual([]);
    },
  );

  it('follows no redirect, so that the token goes nowhere else', async () => {
    await bench.addEvents(1);
    const requests: unknown[] = [];
    const other = createServer((request, response) => {
      requests.push(request.headers);
      response.end('{}');
    }).listen(0, '127.0.0.1');
    await once(other, 'listening');
    bench.endpoint.misbehave = (_asked, response) => {
      response
        .writeHead(307, { location: `http://127.0.0.1:${(other.address() as AddressInfo).port}/` })
        .end();
      return true;
    };
    const run = await bench.run();
    other.close();
    expect(run.exitCode).toBe(2);
    expect(run.record.message).toContain('http_307');
    expect(requests).toEqual([]);
    expect(run.log).not.toContain(TEST_TOKEN);
  });

  it('is refused with a wrong token, which the log does not show', async () => {
    await bench.addEvents(1);
    const run = await bench.run({ CF_REPLAY_TOKEN: 'a-wrong-token' });
    expect(run.record).toMatchObject({ failure_id: 'endpoint_refused' });
    expect(run.log).not.toContain('a-wrong-token');
  });

  it('is not even asked at an address with credentials in it', async () => {
    const { exitCode } = await startInProcess(
      bench.environment({ CF_REPLAY_URL: 'http://user:secret@127.0.0.1/replay', CF_REPLAY_TOKEN: '' }),
    ).ended;
    expect(exitCode).toBe(2);
  });
});

describe('a handler that takes its time', () => {
  it('is waited for beyond the lease, and called once', async () => {
    await bench.addEvents([{ id: 'slow' }]);
    bench.endpoint.handle = async () => {
      await new Promise((resolve) => setTimeout(resolve, 3_000));
      return undefined;
    };
    const first = bench.run({ CF_LEASE_SECONDS: '2' });
    await bench.endpoint.arrived(1);
    // A second replica that looks all the time finds nothing to claim.
    const second = startInProcess(bench.environment({ CF_MODE: 'continuous', CF_LEASE_SECONDS: '2' }));
    expect((await first).record).toMatchObject({
      outcome: 'succeeded',
      counts: { processed: 1, unrecorded: 0 },
    });
    second.stop();
    await second.ended;
    expect(bench.endpoint.begun.get('slow')).toBe(1);
    expect(bench.endpoint.calls).toHaveLength(1);
  });

  it('is not overruled by a late answer once the claim has gone to someone else', async () => {
    await bench.addEvents([{ id: 'stolen' }, { id: 'later', ageSeconds: 1 }]);
    // Renewals fail, nothing else does.
    await bench.database.query(`
      CREATE FUNCTION refuse_renewal() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'no renewal'; END $$;
      CREATE TRIGGER no_renewal BEFORE UPDATE ON counterfoil.replay_events FOR EACH ROW
        WHEN (old.claim_token = new.claim_token AND new.lease_until > old.lease_until) EXECUTE FUNCTION refuse_renewal()`);
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    bench.endpoint.handle = async (id) => {
      if (id === 'stolen') await held;
      return undefined;
    };
    const running = bench.run({ CF_LEASE_SECONDS: '2' });
    await bench.endpoint.arrived(1);
    const expiredFor = (seconds: number) => async () => {
      const [row] = await bench.database.query<{ expired: boolean }>(
        `SELECT lease_until < now() - $1 * interval '1 second' AS expired
           FROM counterfoil.replay_events WHERE event_id = 'stolen'`,
        [seconds],
      );
      return row?.expired === true;
    };
    await eventually(expiredFor(0));
    await bench.database.query(
      `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, next_attempt_at)
       VALUES ('later', 'n', now(), now())`,
    );
    // Nothing is claimed while leases cannot be prolonged, however much is due.
    await eventually(expiredFor(1.5));
    expect(await bench.status('later')).toMatchObject({ status: 'due' });
    await bench.database.query(
      `UPDATE counterfoil.replay_events
          SET claim_token = '00000000-0000-0000-0000-000000000001', lease_until = now() + interval '1 second'
        WHERE event_id = 'stolen'`,
    );
    await bench.database.query(
      'DROP TRIGGER no_renewal ON counterfoil.replay_events; DROP FUNCTION refuse_renewal()',
    );
    release();
    const run = await running;
    expect(run.log).toContain('leases were not prolonged');
    expect(run.record.counts).toMatchObject({ unrecorded: 1, processed: 2, already_processed: 1 });
    // Ours again only after the other's lease had run out; the service said that it was processed already.
    expect(bench.endpoint.begun.get('stolen')).toBe(1);
  });

  it('is not begun by a run whose claim was taken over while it waited for a lane', async () => {
    await bench.addEvents([{ id: 'first' }, { id: 'second' }]);
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    bench.endpoint.handle = async () => {
      await held;
      return undefined;
    };
    const running = bench.run({ CF_LEASE_SECONDS: '2', CF_LANES: '1', CF_BATCH_SIZE: '1' });
    await bench.endpoint.arrived(1);
    await bench.database.query(
      `UPDATE counterfoil.replay_events
          SET claim_token = '00000000-0000-0000-0000-000000000001', lease_until = now() + interval '1 hour'
        WHERE event_id = 'second'`,
    );
    const [{ lease }] = (await bench.database.query(
      `SELECT lease_until AS lease FROM counterfoil.replay_events WHERE event_id = 'first'`,
    )) as [{ lease: Date }];
    await eventually(async () => Number((await bench.status('first'))?.lease_until) > Number(lease) + 600);
    release();
    const run = await running;
    expect(run.record.counts).toMatchObject({ processed: 1, unrecorded: 1 });
    expect(bench.endpoint.calls.flatMap(({ eventIds }) => eventIds)).toEqual(['first']);
  });
});

describe('an event whose call was cut before', () => {
  it('is sent with nothing else in flight, so that another crash cuts no other call', async () => {
    await bench.addEvents(60);
    await bench.database.query(
      `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, next_attempt_at, unfinished_calls)
       SELECT event_id, 'n', now() - interval '1 day', now() - interval '1 day', 1
         FROM event_backups WHERE event_id IN ('e0010', 'e0020')`,
    );
    const suspects = ['e0010', 'e0020'];
    const running = new Set<string>();
    const together: string[] = [];
    bench.endpoint.handle = async (id) => {
      running.add(id);
      if (running.size > 1 && suspects.some((suspect) => running.has(suspect)))
        together.push([...running].join());
      await new Promise((resolve) => setTimeout(resolve, 20));
      running.delete(id);
      return undefined;
    };
    const run = await bench.run({ CF_LANES: '4', CF_BATCH_SIZE: '2', CF_CLAIM_SIZE: '20' });
    expect(run.record.counts).toMatchObject({ processed: 60 });
    expect(together).toEqual([]);
  });
});
