/**
 * Finds the values that change nothing. Each gets another setting than its default; it is read where that shows in what
 * helm renders, or where a template refuses it. Most are tried together, by settings that are found again in the text;
 * only what does not show that way is tried alone.
 */
import type { Documented, Group, Setting, ValueType } from '../../scripts/chart-values-comments.ts';
import { type RenderOptions, render, type Values } from './render.ts';

/** Values under which a part of the chart is rendered, over the defaults: paths of files, and data. */
export type Base = readonly (string | Values)[];

interface Try {
  readonly setting: Setting;
  /** Another one than the default. */
  readonly given: unknown;
  /** What else it may be, where the base may have chosen that already. */
  readonly instead?: readonly unknown[];
  /** What shows it in the text, where the setting is one of its own. */
  readonly mark?: string;
}

/**
 * Paths of the values that change nothing with any of the bases, and of those for which no other setting is known.
 * @param samples settings by path, where the rules of a value do not give one
 */
export async function unreadValues(
  documented: Documented,
  bases: readonly Base[],
  samples: Readonly<Record<string, unknown>>,
  options: RenderOptions = {},
): Promise<string[]> {
  const settings = documented.sections.flatMap(({ children }) => children).flatMap(settingsOf);
  const tries = settings.map((setting, index) => tryOf(setting, index, samples));
  const unknown = tries.flatMap((one, index) =>
    one === undefined ? [`${settings[index]?.path}: give a sample that differs from the default`] : [],
  );
  let left = tries.filter((one) => one !== undefined);
  for (const base of bases) left = await unreadWith(base, left, options);
  return [...unknown, ...left.map(({ setting }) => `${setting.path} changes nothing`)].sort();
}

const settingsOf = (entry: Setting | Group): Setting[] =>
  entry.is === 'setting' ? [entry] : entry.children.flatMap(settingsOf);

function tryOf(setting: Setting, index: number, samples: Readonly<Record<string, unknown>>): Try | undefined {
  if (setting.path in samples) return { setting, given: samples[setting.path] };
  const text = `zq${index}`;
  const number = 70_001 + index;
  const of = (types: readonly ValueType[]): { given: unknown; mark: string } | undefined => {
    if (types.includes('string')) return { given: text, mark: text };
    return types.includes('integer') ? { given: number, mark: String(number) } : undefined;
  };
  if (Array.isArray(setting.values)) {
    const value = of(setting.values);
    // The key shows as well: a template may read only that.
    return value === undefined ? undefined : { setting, given: { [text]: value.given }, mark: text };
  }
  if (setting.values === 'open') return { setting, given: { [text]: text }, mark: text };
  if (setting.items !== undefined) {
    const item = of(setting.items);
    return item === undefined ? undefined : { setting, given: [item.given], mark: item.mark };
  }
  if (setting.types.includes('boolean'))
    return { setting, given: setting.default !== true, instead: [setting.default] };
  if (setting.enum !== undefined) {
    const [other, ...more] = setting.enum.filter((word) => word !== setting.default);
    return other === undefined ? undefined : { setting, given: other, instead: [...more, setting.default] };
  }
  if (setting.types.includes('string')) {
    const { pattern } = setting;
    const fits = (one: string) => pattern === undefined || new RegExp(pattern, 'u').test(one);
    const marked = [text, `/${text}`, `${number}s`].find(fits);
    if (marked !== undefined) return { setting, given: marked, mark: marked };
    const given = ['37s', '7m'].find(fits);
    return given === undefined ? undefined : { setting, given };
  }
  if (setting.types.some((type) => type === 'integer' || type === 'number')) {
    if (number <= (setting.max ?? Number.POSITIVE_INFINITY))
      return { setting, given: number, mark: String(number) };
    return { setting, given: setting.max === setting.default ? setting.min : setting.max };
  }
  return undefined;
}

async function unreadWith(base: Base, tries: readonly Try[], options: RenderOptions): Promise<Try[]> {
  const plain = (await render(base, options)).text;
  const alone = tries.filter(({ mark }) => mark === undefined);
  const hidden = await hiddenTogether(
    base,
    tries.filter(({ mark }) => mark !== undefined),
    options,
  );
  const changed = await Promise.all(
    [...alone, ...hidden].map(async (one) => ((await isPlain(base, one, plain, options)) ? [one] : [])),
  );
  return changed.flat();
}

async function isPlain(base: Base, one: Try, plain: string, options: RenderOptions): Promise<boolean> {
  for (const given of [one.given, ...(one.instead ?? [])])
    if ((await outcome(base, [{ ...one, given }], options)) !== plain) return false;
  return true;
}

/** Those whose mark does not show; where a template refuses some, the rest is tried without them. */
async function hiddenTogether(base: Base, tries: readonly Try[], options: RenderOptions): Promise<Try[]> {
  if (tries.length === 0) return [];
  const text = await outcome(base, tries, options);
  if (text !== undefined) return tries.filter(({ mark = '' }) => !new RegExp(`${mark}(?!\\d)`).test(text));
  if (tries.length === 1) return [];
  const half = Math.ceil(tries.length / 2);
  return (
    await Promise.all([
      hiddenTogether(base, tries.slice(0, half), options),
      hiddenTogether(base, tries.slice(half), options),
    ])
  ).flat();
}

/** @returns undefined where a template refuses it, or what it makes of it is not YAML: it has read it */
async function outcome(
  base: Base,
  tries: readonly Try[],
  options: RenderOptions,
): Promise<string | undefined> {
  const together = tries.reduce<Values>(
    (values, { setting, given }) => withValue(values, setting.path.split('.'), given),
    {},
  );
  const layers = [...base, together];
  try {
    return (await render(layers, options)).text;
  } catch (error) {
    const { message } = error as Error;
    if (!message.includes("values don't meet the specifications of the schema")) return undefined;
    // It has not reached a template: the sample is no setting of this value.
    throw new Error(`${tries.map(({ setting }) => setting.path).join(', ')}: ${message}`);
  }
}

function withValue(values: Values, [key = '', ...rest]: readonly string[], given: unknown): Values {
  const value = rest.length === 0 ? given : withValue((values[key] ?? {}) as Values, rest, given);
  return { ...values, [key]: value };
}
