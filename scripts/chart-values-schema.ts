/** `values.schema.json` of the chart: closed, so that a misspelt key is refused instead of ignored. */
import type { Documented, Group, Setting, ValueType } from './chart-values-comments.ts';

type Schema = Readonly<Record<string, unknown>>;

export function schemaOf({ sections }: Documented): Schema {
  return {
    $schema: 'http://json-schema.org/draft-07/schema#',
    description: 'Written by `npm run chart-values` from values.yaml',
    ...closed(
      sections.flatMap(({ children }) => children),
      // Helm gives `global` to every sub-chart, and a parent chart keeps `enabled` among our values.
      { global: { type: 'object' }, enabled: { type: 'boolean' } },
    ),
  };
}

/**
 * Defaults fill in every key, so that one is missing only where somebody has set it to null: Helm then takes the default
 * away, and a template would render without the guard that it is. Where null means something, the type says so.
 */
const closed = (children: readonly (Setting | Group)[], beside: Schema = {}): Schema => ({
  type: 'object',
  additionalProperties: false,
  required: children
    .filter((child) => child.is === 'group' || !child.types.includes('null'))
    .map(({ key }) => key),
  properties: { ...beside, ...Object.fromEntries(children.map((child) => [child.key, propertyOf(child)])) },
});

function propertyOf(entry: Setting | Group): Schema {
  const description = entry.description === '' ? {} : { description: entry.description };
  if (entry.is === 'group') return { ...description, ...closed(entry.children) };
  const { enum: words, min, max, pattern, items, values } = entry;
  return {
    ...description,
    ...typed(entry.types),
    default: entry.default,
    ...(words === undefined ? {} : { enum: entry.types.includes('null') ? [...words, null] : words }),
    ...(min === undefined ? {} : { minimum: min }),
    ...(max === undefined ? {} : { maximum: max }),
    ...(pattern === undefined ? {} : { pattern }),
    ...(entry.isRequired ? { minLength: 1 } : {}),
    ...(items === undefined ? {} : { items: typed(items) }),
    ...(Array.isArray(values) ? { additionalProperties: typed(values as readonly ValueType[]) } : {}),
  };
}

const typed = (types: readonly ValueType[]): Schema => ({ type: types.length === 1 ? types[0] : types });
