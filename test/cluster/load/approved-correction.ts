/** Bills that only a person may settle: two of them, each by a login of their own, and the service that carries it out. */
import { expect } from 'vitest';
import { eventually } from '../cluster.ts';
import { figure } from '../figures.ts';
import type { Abort, Shop } from '../shop.ts';

interface Finding {
  readonly id: number;
  readonly session: string;
  readonly kind: string;
  readonly cause: string | null;
  readonly published_hash: string | null;
}

export const openFindings = async (shop: Shop): Promise<Finding[]> =>
  JSON.parse(
    await shop.service.sql(`SELECT coalesce(json_agg(json_build_object('id', id, 'session', key::jsonb ->> 0, 'kind', kind,
        'cause', cause, 'published_hash', published_hash) ORDER BY id), '[]')
      FROM counterfoil.discrepancies WHERE status = 'open'`),
  ) as Finding[];

/** A login of their own, as jobs/schema/README.md says. */
export async function person(shop: Shop, name: string): Promise<void> {
  await shop.service.sql(`CREATE ROLE ${name} LOGIN IN ROLE counterfoil_people`);
}

/** How a request has ended, and what became of its findings, each word once. */
export const requestEnded = async (shop: Shop, id: string): Promise<[status: string, outcomes: string]> =>
  await eventually('the request was carried out', 300, async () => {
    const [status = '', outcomes = ''] = (
      await shop.service.sql(`SELECT q.status, (SELECT string_agg(DISTINCT value, ',') FROM jsonb_each_text(q.result -> 'findings'))
        FROM counterfoil.requests AS q WHERE q.id = ${id}`)
    ).split('|');
    if (status === 'open' || status === 'taken') throw new Error(status);
    return [status, outcomes];
  });

/** Sessions with more than one bill, or with another amount than theirs. */
const wrongSessions = async (shop: Shop): Promise<string[]> =>
  JSON.parse(
    await shop.service.sql(`SELECT coalesce(json_agg(s.id ORDER BY s.id), '[]') FROM sessions AS s
      JOIN (SELECT session_id, count(*) AS bills, sum(amount_minor) AS amount FROM mentor_payable_ledgers
             GROUP BY session_id) AS billed ON billed.session_id = s.id
     WHERE billed.bills > 1 OR billed.amount <> s.amount_minor`),
  ) as string[];

/** The customers go home, the repair says that a person has to decide, and each wrong bill is listed with its version. */
export async function listed(
  shop: Shop,
  abort: Abort,
  { journey, kind }: { journey: string; kind: string },
): Promise<readonly number[]> {
  expect(await shop.repaired(abort.canary, 600)).toBe('not_clean');
  figure(journey, 'weight 0 to all wrong bills listed', (Date.now() - abort.weightZeroAt) / 1_000, 's', 300);
  await shop.namespace.kubectl('delete', 'pod', 'customers');
  const wrong = await wrongSessions(shop);
  expect(wrong.length).toBeGreaterThanOrEqual(3);
  // What was late under so much load is gone again at the next look.
  const findings = await eventually('each wrong bill is listed, and nothing else', 240, async () => {
    const now = await openFindings(shop);
    const sessions = now.map(({ session }) => session).sort();
    if (sessions.join() !== wrong.join())
      throw new Error(`${sessions.length} are, ${wrong.length} are wrong`);
    return now;
  });
  const unlisted = wrong.filter((id) => !findings.some(({ session }) => session === id));
  figure(journey, 'bills that are wrong', wrong.length);
  figure(journey, 'wrong bills unlisted at the end', unlisted.length, '', 0);
  for (const finding of findings) expect(finding).toMatchObject({ kind, published_hash: abort.canary });
  return findings.map(({ id }) => id);
}

/** One person asks for a correction, another approves it, and the job lets the service carry it out. */
export async function settled(shop: Shop, findings: readonly number[], reason: string): Promise<void> {
  const { service } = shop;
  for (const name of ['ann', 'ben']) await person(shop, name);
  await service.sql('CREATE TABLE ledger_before AS TABLE mentor_payable_ledgers');
  const scope = JSON.stringify({ findings });
  const request = await service.sql(
    `SELECT counterfoil.request('correction', '${scope}', '${reason}')`,
    'ann',
  );
  await expect(service.sql(`SELECT counterfoil.approve(${request}, 'my own')`, 'ann')).rejects.toThrow(
    'your own',
  );
  await service.sql(`SELECT counterfoil.approve(${request}, 'compared with the contracts')`, 'ben');
  expect(await requestEnded(shop, request)).toEqual(['done', 'corrected']);
  const untouched =
    'SELECT count(*) FROM (TABLE ledger_before EXCEPT TABLE mentor_payable_ledgers) AS changed';
  expect(await service.sql(untouched)).toBe('0');
  expect(Number(await service.sql('SELECT count(*) FROM ledger_before'))).toBeGreaterThan(0);
}

/** What is owed is what the sessions say, and the machine has seen it, too. */
export async function billedRightly(shop: Shop, journey: string): Promise<void> {
  const wrong = await shop.wronglyBilled();
  figure(journey, 'sessions unbilled or billed wrongly at the end', wrong, '', 0);
  expect(wrong).toBe(0);
  await eventually('no finding is open any more', 240, async () => {
    const open = await openFindings(shop);
    if (open.length > 0) throw new Error(`${open.length} are open`);
    return true;
  });
}
