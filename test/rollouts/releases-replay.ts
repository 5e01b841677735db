/**
 * Lets a batch of releases go through the steps of the Rollout. Prometheus answers the analysis's own queries
 * (tools/promtool/release-replay), Argo's own code judges the answers (tools/argo-rollouts/analysis-verdict), the exporter's
 * own verdict answers the gate of the sample. What stands here is only what the Rollout does with a verdict: the next
 * weight, or the abort.
 */
import { type GateAnswer, type GateEvidence, type GateThresholds, judge } from '../../jobs/exporter/gate.ts';
import type { LineProgram } from './line-program.ts';
import { type Canary, type Metric, metricsOf, queriesOf, type Stage, secondsOf } from './releases-canary.ts';
import type { PlannedRelease } from './releases-plan.ts';

export interface Outcome {
  readonly release: PlannedRelease;
  /** `held`: it stands at a gate for longer than the bench waits. */
  readonly end: 'promoted' | 'aborted' | 'held';
  /** Since the first pod took traffic. */
  readonly minutes: number;
  /** The canary's share when it ended. */
  readonly weight: number;
  /** Which metric ended it. */
  readonly metric: string | undefined;
}

/** One of the program's answers, as the evaluator takes it. */
type Answer = object;
type Timed = [second: number, answer: Answer];

interface Evidence {
  readonly published: number;
  readonly lost: number;
  readonly judged: number;
  readonly missing: number;
  readonly wrong: number;
  readonly found: number;
}

interface Advanced {
  readonly answers: Readonly<Record<string, Readonly<Record<string, readonly Timed[]>>>>;
  readonly gates: Readonly<Record<string, Evidence>>;
}

interface RunAnswer {
  readonly phase: 'Running' | 'Successful' | 'Failed' | 'Error' | 'Inconclusive';
  readonly endedAt?: number;
  readonly metrics: Readonly<Record<string, { readonly phase: string }>>;
}

/** Simulated time passes in steps of so many seconds; a new weight takes effect at the end of one. */
const ROUND_SECONDS = 60;
/**
 * Earlier answers were all good, or the run would have ended: nothing counts but failures, and errors in a row. Longer than
 * any initialDelay, and with errors than the longest row of them.
 */
const LOOK_BACK_SECONDS = 180;
const LOOK_BACK_AT_ERRORS_SECONDS = 600;
/** An answer that has changed is judged within one interval of its metric. */
const JUDGED_WITHIN_SECONDS = 120;
/** A query is asked at least so often, although no alert of the installation has changed. */
export const ASK_SECONDS = 1_800;
/** A probe and a look of the reconciliation take so long. */
const JOB_SECONDS = 60;
/** Prometheus answers for the first time so long after a gate has opened: at its next scrape. */
const FIRST_ANSWER_SECONDS = 15;

const hashOf = (id: string) => `c-${id}`;

class Walk {
  readonly release: PlannedRelease;
  readonly #answers = new Map<string, Timed[]>();
  readonly #said = new Map<string, string>();
  stage = 0;
  stageSince = 0;
  gateSince: number | undefined;
  changedAt = 0;
  gateChangedAt = 0;
  outcome: Outcome | undefined;
  /** Of the gate at which it stands. */
  probeFails: boolean | undefined;
  #chance: number;

  constructor(release: PlannedRelease) {
    this.release = release;
    this.#chance = release.seed >>> 0;
  }

  hear(metric: string, answers: readonly Timed[]): void {
    const known = this.#answers.get(metric) ?? [];
    known.push(...answers);
    this.#answers.set(metric, known);
  }

  /** Said again only where it is another answer than the last one: by this key, since evidence counts on and on. */
  say(metric: string, second: number, answer: Answer, key: string): boolean {
    if (this.#said.get(metric) === key) return false;
    this.#said.set(metric, key);
    this.hear(metric, [[second, answer]]);
    return true;
  }

  forget(metric: string): void {
    this.#answers.delete(metric);
    this.#said.delete(metric);
  }

  /** From a time on, with the answer that held at it. */
  answersFrom(metric: string, second: number): Timed[] {
    const all = this.#answers.get(metric) ?? [];
    const first = all.findLastIndex(([at]) => at <= second);
    return first <= 0 ? [...all] : all.slice(first);
  }

  saysError(metrics: readonly string[]): boolean {
    return metrics.some((metric) => 'error' in (this.#answers.get(metric)?.at(-1)?.[1] ?? {}));
  }

  /** True with this chance, the same for the same seed; seeds that follow each other have nothing else in common. */
  happens(share: number): boolean {
    this.#chance = (this.#chance + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(this.#chance ^ (this.#chance >>> 15), this.#chance | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32 < share;
  }
}

export interface Programs {
  readonly prometheus: LineProgram;
  readonly argo: LineProgram;
}

export interface ReplayOptions {
  readonly rules: readonly string[];
  readonly thresholds: string;
  readonly gate: GateThresholds;
  readonly canary: Canary;
  readonly askSeconds?: number;
  /** A release that stands at a gate for so long is held; the templates hold it for a day before they give it up. */
  readonly heldAfterSeconds: number;
  readonly report?: (share: number) => void;
}

export async function replayBatch(
  releases: readonly PlannedRelease[],
  { prometheus, argo }: Programs,
  options: ReplayOptions,
): Promise<Outcome[]> {
  const { canary } = options;
  const background = metricsOf(canary.background).map(({ name }) => name);
  const args = { 'canary-hash': '{{args.canary-hash}}', 'published-hash': '{{args.canary-hash}}' };
  const gateQueries = Object.assign(
    {},
    ...canary.stages.map(({ gate }) => queriesOf(gate.templates, { ...gate.args, ...args })),
  );
  await prometheus.ask({
    do: 'begin',
    rules: options.rules,
    thresholds: options.thresholds,
    queries: queriesOf(canary.background, args),
    gateQueries,
    releases,
    // A counter of restarts that stays at 0 for a day is the dearest thing to look at.
    withoutRulesOf: releases.some(({ crashesPerHour }) => crashesPerHour > 0) ? [] : ['crashes'],
    askSeconds: options.askSeconds ?? ASK_SECONDS,
  });
  const asksExporter = metricsOf(canary.background).some(({ provider }) => provider.web !== undefined);
  const walks = new Map(releases.map((release) => [release.id, new Walk(release)]));
  const alive = new Set(releases.map(({ id }) => id));
  let weights: Record<string, number> = Object.fromEntries(
    releases.map(({ id }) => [id, canary.stages[0]?.weight ?? 0]),
  );
  let ended: string[] = [];
  // Until the exporter is asked for the first time it has seen nothing.
  const nothing = { published: 0, lost: 0, judged: 0, missing: 0, wrong: 0, found: 0 };
  for (const walk of walks.values()) answerBackground(walk, nothing, options.gate, canary, 0);
  for (let now = 0; alive.size > 0; ) {
    const atGate: Record<string, number> = {};
    const judged = asksExporter ? [...alive] : [];
    for (const id of alive) {
      const walk = walks.get(id);
      if (walk?.gateSince !== undefined) atGate[id] = stageOf(walk, canary).gate.sinceSeconds;
    }
    const before = now;
    now += ROUND_SECONDS;
    const { answers, gates } = await prometheus.ask<Advanced>({
      do: 'advance',
      until: now,
      weights,
      ended,
      atGate,
      judged,
    });
    weights = {};
    ended = [];
    for (const id of alive) {
      const walk = walks.get(id);
      if (walk === undefined) continue;
      for (const [metric, timed] of Object.entries(answers[id] ?? {})) {
        walk.hear(metric, timed);
        if (background.includes(metric)) walk.changedAt = now;
        else walk.gateChangedAt = now;
      }
      const evidence = gates[id];
      if (evidence !== undefined && answerBackground(walk, evidence, options.gate, canary, now))
        walk.changedAt = now;
      if (
        walk.gateSince !== undefined &&
        evidence !== undefined &&
        answerGate(walk, evidence, options.gate, canary, before)
      )
        walk.gateChangedAt = now;
      const end =
        (await judgeBackground(walk, argo, canary, background, now)) ??
        (await judgeGate(walk, argo, canary, now, options.heldAfterSeconds));
      if (end !== undefined) {
        walk.outcome = end;
        alive.delete(id);
        ended.push(id);
        continue;
      }
      const stage = stageOf(walk, canary);
      if (walk.gateSince === undefined && now - walk.stageSince >= stage.pauseSeconds)
        openGate(walk, stage, now);
      if (walk.stageSince === now && walk.stage > 0) weights[id] = stage.weight;
    }
    options.report?.((releases.length - alive.size) / releases.length);
  }
  await prometheus.ask({ do: 'end' });
  return releases.map(({ id }) => {
    const outcome = walks.get(id)?.outcome;
    if (outcome === undefined) throw new Error(`release ${id} has no outcome`);
    return outcome;
  });
}

function stageOf({ stage }: Walk, { stages }: Canary): Stage {
  const found = stages[stage];
  if (found === undefined) throw new Error('a release beyond its last step');
  return found;
}

/** From here on each gate metric has its own answers. */
function openGate(walk: Walk, { gate }: Stage, now: number): void {
  walk.gateSince = now;
  walk.gateChangedAt = now;
  walk.probeFails = undefined;
  for (const { name } of metricsOf(gate.templates)) walk.forget(name);
}

/** What the exporter says to the background; true where that is news. */
function answerBackground(
  walk: Walk,
  evidence: Evidence,
  thresholds: GateThresholds,
  canary: Canary,
  second: number,
): boolean {
  let news = false;
  for (const { name, provider } of metricsOf(canary.background)) {
    if (provider.web === undefined) continue;
    const { answer, key } = exporterSays(walk.release, evidence, thresholds, second);
    news = walk.say(name, second, answer, key) || news;
  }
  return news;
}

/** What exporter and Jobs say to the gate of this release; true where that is news. */
function answerGate(
  walk: Walk,
  evidence: Evidence,
  thresholds: GateThresholds,
  canary: Canary,
  second: number,
): boolean {
  let news = false;
  const say = (metric: string, answer: Answer, key: string) => {
    news = walk.say(metric, second, answer, key) || news;
  };
  const job = (metric: string, fails: boolean) =>
    say(metric, { job: fails ? 'Failed' : 'Complete', seconds: JOB_SECONDS }, String(fails));
  for (const { name, provider } of metricsOf(stageOf(walk, canary).gate.templates)) {
    if (provider.web !== undefined) {
      const { answer, key } = exporterSays(walk.release, evidence, thresholds, second);
      say(name, answer, key);
    } else if (name === 'probe') {
      // One flow on the canary, as bad as any other; the Job is made once.
      walk.probeFails ??= walk.happens(walk.release.lost + walk.release.wrongBill);
      job(name, walk.probeFails);
    } else if (name === 'reconciliation') job(name, evidence.found > 0);
    else if (provider.prometheus === undefined) throw new Error(`nobody answers metric ${name}`);
  }
  return news;
}

/** The answer to /gate; what it counts goes on and on, so that only another verdict is news. */
function exporterSays(
  release: PlannedRelease,
  evidence: Evidence,
  thresholds: GateThresholds,
  second: number,
): { readonly answer: Answer; readonly key: string } {
  if (release.exporterGoneAt > 0 && second >= release.exporterGoneAt)
    return { answer: { error: 'connection refused' }, key: 'gone' };
  const body = gateAnswer(release, evidence, thresholds);
  return { answer: { status: 200, body }, key: body.verdict };
}

/** By the exporter's own verdict, with the evidence that it would have read. */
function gateAnswer(release: PlannedRelease, seen: Evidence, thresholds: GateThresholds): GateAnswer {
  const evidence: GateEvidence = {
    hash: hashOf(release.id),
    at: null,
    windowSeconds: 86_400,
    windowWhole: true,
    events: { published: seen.published, lost: seen.lost, firstAt: null, firstAgeSeconds: null },
    billing: [
      {
        check: 'session-billing',
        judged: seen.judged,
        discrepancies: { missing: seen.missing, duplicate: 0, amount: seen.wrong },
        findings: { suspected: 0, open: 0 },
        verifiedThrough: null,
        verifiedThroughAgeSeconds: null,
      },
    ],
    notMeasured: [],
    thresholds,
    rollout: null,
  };
  return { ...judge(evidence), ...evidence };
}

async function judgeBackground(
  walk: Walk,
  argo: LineProgram,
  canary: Canary,
  metrics: readonly string[],
  now: number,
): Promise<Outcome | undefined> {
  const errors = walk.saysError(metrics);
  if (now - walk.changedAt > JUDGED_WITHIN_SECONDS && !errors) return undefined;
  const from = Math.max(0, walk.changedAt - (errors ? LOOK_BACK_AT_ERRORS_SECONDS : LOOK_BACK_SECONDS));
  const run = await argo.ask<RunAnswer>({
    do: 'run',
    templates: canary.background,
    args: { 'canary-hash': hashOf(walk.release.id), 'published-hash': hashOf(walk.release.id) },
    from,
    until: now,
    answers: Object.fromEntries(metrics.map((metric) => [metric, walk.answersFrom(metric, from)])),
  });
  if (run.phase === 'Running') return undefined;
  return outcomeOf(walk, canary, run, 'aborted', now);
}

async function judgeGate(
  walk: Walk,
  argo: LineProgram,
  canary: Canary,
  now: number,
  heldAfterSeconds: number,
): Promise<Outcome | undefined> {
  if (walk.gateSince === undefined || walk.gateSince >= now) return undefined;
  const { gate } = stageOf(walk, canary);
  const metrics = metricsOf(gate.templates);
  const names = metrics.map(({ name }) => name);
  const from = walk.gateSince + FIRST_ANSWER_SECONDS;
  const held = now - walk.gateSince >= heldAfterSeconds;
  if (!held && !mayHaveEnded(walk, metrics, now - from, now)) return undefined;
  const run = await argo.ask<RunAnswer>({
    do: 'run',
    templates: gate.templates,
    args: { ...gate.args, 'canary-hash': hashOf(walk.release.id), 'published-hash': hashOf(walk.release.id) },
    from,
    until: now,
    answers: Object.fromEntries(names.map((name) => [name, walk.answersFrom(name, from)])),
  });
  if (run.phase === 'Running') return held ? outcomeOf(walk, canary, run, 'held', now) : undefined;
  if (run.phase !== 'Successful') return outcomeOf(walk, canary, run, 'aborted', now);
  walk.stage += 1;
  walk.stageSince = now;
  walk.gateSince = undefined;
  if (walk.stage < canary.stages.length) return undefined;
  return { release: walk.release, end: 'promoted', minutes: now / 60, weight: 100, metric: undefined };
}

/** A gate ends soon after an answer has changed, or when a metric has been measured as often as it may be. */
function mayHaveEnded(walk: Walk, metrics: readonly Metric[], elapsed: number, now: number): boolean {
  const intervals = metrics.map(({ interval }) => secondsOf(interval ?? 0));
  const slowest = Math.max(...intervals) + JUDGED_WITHIN_SECONDS;
  if ([0, 60, JUDGED_WITHIN_SECONDS, slowest / 2, slowest].includes(now - walk.gateChangedAt)) return true;
  return metrics.some(({ count = 1 }, n) => {
    const held = count * (intervals[n] ?? 0);
    return elapsed >= held && elapsed < held + ROUND_SECONDS;
  });
}

/** With the metric that ended the run, or for which it waits. */
function outcomeOf(walk: Walk, canary: Canary, run: RunAnswer, end: Outcome['end'], now: number): Outcome {
  if (run.phase === 'Inconclusive') throw new Error('an analysis has ended inconclusive');
  const bad = Object.entries(run.metrics).find(([, { phase }]) => phase === run.phase);
  return {
    release: walk.release,
    end,
    minutes: (run.endedAt ?? now) / 60,
    weight: stageOf(walk, canary).weight,
    metric: bad?.[0],
  };
}
