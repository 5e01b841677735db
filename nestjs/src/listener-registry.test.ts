import { Injectable, Scope } from '@nestjs/common';
import { EventEmitter2, OnEvent } from '@nestjs/event-emitter';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { OnBackedEvent } from './on-backed-event.js';
import { EVENT, startTrial } from './testing/trial-app.js';

@Injectable()
class Billing {
  @OnBackedEvent(EVENT)
  createBill(): void {}
}

@Injectable()
class BillingUnderAnotherClassName {
  @OnBackedEvent(EVENT)
  createBill(): void {}
}

@Injectable()
class BillingUnderAnotherName {
  @OnBackedEvent(EVENT, { listener: 'billing' })
  createBill(): void {}
}

@Injectable()
class Unversioned {
  @OnBackedEvent('session.completed')
  onCompleted(): void {}
}

@Injectable({ scope: Scope.REQUEST })
class PerRequest {
  @OnBackedEvent(EVENT)
  onCompleted(): void {}
}

@Injectable()
class OrderedByPath {
  @OnBackedEvent('services.session.evaluated.v1', { orderBy: "a' or true --" })
  onEvaluated(): void {}
}

@Injectable()
class Unbacked {
  @OnEvent(EVENT)
  refreshCache(): void {}
  @OnEvent(['contract', 'signed', 'v1'])
  onSigned(): void {}
  @OnEvent('cache.refresh')
  refresh(): void {}
}

@Injectable()
class Evaluation {
  @OnBackedEvent('services.session.evaluated.v1', { orderBy: 'sessionId' })
  onEvaluated(): void {}
  @OnEvent('cache.refresh')
  refresh(): void {}
}

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(async () => {
  await database?.drop();
});

test('the service does not start with listeners that would lose events, and says all that is wrong', async () => {
  const start = startTrial(
    database.url,
    [Billing, BillingUnderAnotherClassName, Unversioned, PerRequest, OrderedByPath, Unbacked],
    {
      publishes: [EVENT, 'contract.signed.v1', 'ContractSigned'],
      accepts: { nonsense: () => true, 'services.session.evaluated.v1': () => true },
    },
  );
  const error = await start.then(
    () => undefined,
    (refused: Error) => refused,
  );
  expect(error?.name).toBe('ListenersRefusedError');
  for (const problem of [
    'accepts: "nonsense" is not of the form domain.action.v1',
    'accepts: "services.session.evaluated.v1" is not among publishes',
    'publishes: "ContractSigned" is not of the form domain.action.v1',
    'publishes: contract.signed.v1 has no listener',
    'OrderedByPath.onEvaluated: orderBy must be the name of a payload field',
    'Unbacked.onSigned: a plain @OnEvent has not the error setting',
    'Unversioned.onCompleted: "session.completed" is not of the form domain.action.v1',
    `BillingUnderAnotherClassName.createBill: ${EVENT} already has a listener "createBill"`,
    'PerRequest.onCompleted: a backed listener cannot be request or transient scoped',
    `Unbacked.refreshCache: a plain @OnEvent has not the error setting and would never be called for the backed ${EVENT}`,
  ]) {
    expect(error?.message).toContain(problem);
  }
  expect(error?.message).not.toContain('cache.refresh');
  expect(error?.message).not.toContain(`publishes: ${EVENT}`);
});

test('the service starts where every published name has a listener, and others are listened to as well', async () => {
  const trial = await startTrial(database.url, [Billing, Evaluation], {
    publishes: [EVENT],
    accepts: { [EVENT]: () => true },
  });
  await trial.stop();
});

test('the digest of the listeners stays with their names and changes with them', async () => {
  const digestWith = async (listener: typeof Billing): Promise<string> => {
    const trial = await startTrial(database.url, [listener]);
    try {
      return (await trial.replay(['none'])).body.listenersDigest;
    } finally {
      await trial.stop();
    }
  };
  const digest = await digestWith(Billing);
  expect(digest).toMatch(/^[0-9a-f]{64}$/);
  expect(await digestWith(BillingUnderAnotherClassName)).toBe(digest);
  expect(await digestWith(BillingUnderAnotherName)).not.toBe(digest);
});

@Injectable()
class Failing {
  @OnBackedEvent(EVENT)
  createBill(): void {
    throw new Error('not suppressed');
  }
}

test('a backed listener is an @OnEvent whose errors are not suppressed', async () => {
  const trial = await startTrial(database.url, [Failing]);
  try {
    await expect(trial.app.get(EventEmitter2).emitAsync(EVENT, {})).rejects.toThrow('not suppressed');
  } finally {
    await trial.stop();
  }
});
