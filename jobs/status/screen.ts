/**
 * The first screen, as text. Order of answers: what and how many, by cause; money at risk; since when, and
 * growing or shrinking; what the machine is already doing; whether it needs you; version and weight; one command.
 */
import { styleText } from 'node:util';
import type { FindingGroup } from './queries.ts';
import type { Status } from './status.ts';

type Style = Parameters<typeof styleText>[0];
type Paint = (style: Style, text: string) => string;

const kindNames: Readonly<Record<FindingGroup['kind'], string>> = {
  missing: 'without a bill',
  duplicate: 'billed more than once',
  amount: 'billed a wrong amount',
  orphan: 'bills for nothing',
};

/** @param colour whether the terminal takes colours */
export function renderScreen(status: Status, installation: string, colour: boolean): string {
  const paint: Paint = (style, text) => (colour ? styleText(style, text, { validateStream: false }) : text);
  return [
    ...heading(status, installation, paint),
    ...frozen(status, paint),
    '',
    ...findings(status, paint),
    ...machine(status, paint),
    ...person(status, paint),
    ...release(status),
    '',
    `Look closer: kubectl exec deploy/<exporter> -- node jobs/status/main.ts --json`,
    '',
  ].join('\n');
}

function heading(status: Status, installation: string, paint: Paint): string[] {
  const openGroups = status.findings.filter((group) => group.status === 'open');
  const open = total(openGroups);
  const verdict = {
    clean: paint(['bold', 'green'], 'CLEAN  every fact looked at has its bill'),
    suspected: paint(['bold', 'yellow'], `${total(status.findings)} SUSPECTED  the next run looks again`),
    unverified: paint(
      ['bold', 'yellow'],
      'NOT VERIFIED  nothing is known to be open, but nobody has looked lately',
    ),
    open: paint(['bold', 'red'], `${open} OPEN ${open === 1 ? 'DISCREPANCY' : 'DISCREPANCIES'}`),
  }[status.verdict];
  return [
    `counterfoil · ${installation} · ${utc(status.at)}`,
    verdict,
    ...(open === 0 ? [] : [`Money at risk: ${moneyAtRisk(openGroups)}`]),
  ];
}

function frozen(status: Status, paint: Paint): string[] {
  return status.freezes.map((freeze) =>
    paint(
      ['bold', 'yellow'],
      `FROZEN until ${utc(freeze.frozen_until)} by ${freeze.frozen_by}: ${freeze.reason}`,
    ),
  );
}

function findings(status: Status, paint: Paint): string[] {
  if (status.findings.length === 0) return [];
  const rows = status.findings.map((group) => [
    String(group.findings),
    group.status,
    kindNames[group.kind],
    group.cause ?? '',
    moneyAtRisk([group]),
    group.oldest_at === null ? 'unknown' : utc(group.oldest_at),
  ]);
  const { opened, resolved } = status.trend;
  const direction = opened > resolved ? 'growing' : opened < resolved ? 'shrinking' : 'steady';
  return [
    ...table(['how many', 'status', 'what', 'cause', 'money at risk', 'oldest (UTC)'], rows, paint),
    `In the last hour ${opened} opened and ${resolved} resolved: ${direction}.`,
    '',
  ];
}

/** The money in findings, per currency. What is not known is named, and never counted as 0. */
function moneyAtRisk(groups: readonly FindingGroup[]): string {
  const sums = new Map<string, bigint>();
  let unknown = 0;
  for (const { at_risk_minor: minor, currency, unknown_amounts: more } of groups) {
    unknown += more;
    if (minor !== null && currency !== null) sums.set(currency, (sums.get(currency) ?? 0n) + BigInt(minor));
  }
  const parts = [...sums].sort().map(([currency, minor]) => inCurrency(minor, currency));
  if (unknown > 0) parts.push(`unknown for ${unknown}`);
  return parts.join(', ');
}

/** Minor units as people write them: 214130 EUR cents are 2,141.30 EUR. */
function inCurrency(minor: bigint, currency: string): string {
  const digits = fractionDigits(currency);
  if (digits === undefined) return `${minor} ${currency} (minor units)`;
  const text = String(minor).padStart(digits + 1, '0');
  const whole = BigInt(text.slice(0, text.length - digits)).toLocaleString('en');
  return `${whole}${digits === 0 ? '' : `.${text.slice(-digits)}`} ${currency}`;
}

/** Digits of the minor unit by ISO 4217; nothing for a text that is no currency code. */
function fractionDigits(currency: string): number | undefined {
  if (!/^[A-Z]{3}$/.test(currency)) return undefined;
  return new Intl.NumberFormat('en', { style: 'currency', currency }).resolvedOptions().maximumFractionDigits;
}

function machine(status: Status, paint: Paint): string[] {
  const lines = [paint('bold', 'What the machine is doing')];
  for (const check of status.checks) {
    const through =
      check.verified_through === null || check.age_seconds === null
        ? 'not verified yet'
        : `verified through ${utc(check.verified_through)} (${age(check.age_seconds)} ago)`;
    lines.push(
      `  ${check.name}: ${through}${check.held_back_by === null ? '' : `, held back by ${check.held_back_by}`}`,
    );
  }
  if (status.checks.length === 0) lines.push('  no check has run yet');
  lines.push(`  replay: ${replaySummary(status)}`);
  for (const run of status.runs) {
    const silent =
      run.outcome === 'running'
        ? `, last sign ${age(run.silent_seconds)} ago`
        : `, ${age(run.age_seconds)} ago`;
    lines.push(
      `  ${run.job} ${run.mode}: ${run.outcome}${silent}${run.message === null ? '' : ` (${run.message})`}`,
    );
  }
  if (status.runs.length === 0) lines.push('  no run has been recorded');
  for (const group of status.requests) lines.push(`  ${group.requests} open ${group.kind} request(s)`);
  return [...lines, ''];
}

function replaySummary({ replay, runs, findings }: Status): string {
  if (replay.length > 0) {
    return replay
      .map((group) => {
        const reason = group.parked_reason === null ? '' : ` (${group.parked_reason})`;
        const heldUp = group.held_up === 0 ? '' : `, ${group.held_up} held up by the service's database`;
        const waited =
          group.waited_seconds === null ? '' : `, waiting for a bill for ${age(group.waited_seconds)}`;
        const word = group.status === 'handed_to_outbox' ? 'handed to the outbox' : group.status;
        return `${group.events} ${word}${reason}, oldest ${utc(group.oldest_at)}${heldUp}${waited}`;
      })
      .join('; ');
  }
  const waiting = total(findings.filter(({ cause }) => cause === 'event_pending'));
  const never = runs.some(({ job }) => job === 'event-replay') ? '' : ', and it has never run';
  return waiting === 0
    ? `nothing taken in${never}`
    : `nothing taken in, ${waiting} findings wait for it${never}`;
}

function person(status: Status, paint: Paint): string[] {
  if (status.forAPerson.length === 0) return [paint('bold', 'Does it need you?  No.'), ''];
  return [
    paint(['bold', 'red'], 'Does it need you?  Yes:'),
    ...status.forAPerson.map(({ count, text }) => `  ${count} × ${text}`),
    '',
  ];
}

function release(status: Status): string[] {
  const { version, weight, phase } = status.rollout;
  return [`Release: version ${version}, canary weight ${weight}, rollout ${phase}`];
}

const total = (groups: readonly FindingGroup[]) => groups.reduce((sum, group) => sum + group.findings, 0);

/** Postgres' text of a time in UTC, to the second. */
const utc = (time: string) => `${time.slice(0, 10)} ${time.slice(11, 19)}Z`;

function age(seconds: number): string {
  if (seconds < 120) return `${Math.max(0, seconds)} s`;
  if (seconds < 7_200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3_600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}

function table(headings: readonly string[], rows: readonly (readonly string[])[], paint: Paint): string[] {
  const widths = headings.map((text, column) =>
    Math.max(text.length, ...rows.map((row) => row[column]?.length ?? 0)),
  );
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd();
  return [paint('dim', line(headings)), ...rows.map(line)];
}
