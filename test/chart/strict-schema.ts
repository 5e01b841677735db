/**
 * Makes of what Kubernetes publishes about its kinds a JSON schema that stands alone and is strict: an unknown field is
 * refused, where the API server only warns, and a null, which it drops without a word, is refused as well.
 */

export type Schema = { readonly [keyword: string]: unknown };

/** As far as we read it. */
interface Swagger {
  readonly definitions: Readonly<Record<string, Schema>>;
}

export interface Kind {
  /** Empty for the core. */
  readonly group: string;
  readonly version: string;
  readonly kind: string;
  readonly schema: Schema;
}

const METADATA = 'io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta';
const reference = '#/definitions/';

/** Types that swagger calls a text and that take a number as well. */
const textOrNumber = new Set([
  'io.k8s.apimachinery.pkg.api.resource.Quantity',
  'io.k8s.apimachinery.pkg.util.intstr.IntOrString',
]);

/** Every kind of one version of Kubernetes. */
export function kindsOfKubernetes({ definitions }: Swagger): Kind[] {
  return Object.entries(definitions).flatMap(([name, definition]) => {
    const kinds = (definition['x-kubernetes-group-version-kind'] ?? []) as readonly Omit<Kind, 'schema'>[];
    // DeleteOptions and their like stand for many groups and are no objects of a manifest.
    const [kind] = kinds;
    if (kinds.length !== 1 || kind === undefined) return [];
    const { group, version } = kind;
    return [
      {
        group,
        version,
        kind: kind.kind,
        schema: { ...closed(definition, group, version, kind.kind), definitions: reached(name, definitions) },
      },
    ];
  });
}

/** Every version of a kind that a CustomResourceDefinition defines; its metadata are those of Kubernetes. */
export function kindsOfDefinition(definition: unknown, kubernetes: Swagger): Kind[] {
  const { spec } = definition as {
    spec: {
      group: string;
      names: { kind: string };
      versions: { name: string; served: boolean; schema: { openAPIV3Schema: Schema } }[];
    };
  };
  return spec.versions
    .filter(({ served }) => served)
    .map(({ name, schema: { openAPIV3Schema } }) => ({
      group: spec.group,
      version: name,
      kind: spec.names.kind,
      schema: {
        ...closed(
          {
            ...openAPIV3Schema,
            properties: {
              ...(openAPIV3Schema.properties as object),
              metadata: { $ref: reference + METADATA },
            },
          },
          spec.group,
          name,
          spec.names.kind,
        ),
        definitions: reached(METADATA, kubernetes.definitions, true),
      },
    }));
}

/** The whole object: it says what it is, and has a name. */
function closed(definition: Schema, group: string, version: string, kind: string): Schema {
  const made = strict(definition);
  return {
    ...made,
    properties: {
      ...(made.properties as object),
      apiVersion: { enum: [group === '' ? version : `${group}/${version}`] },
      kind: { enum: [kind] },
    },
    required: [...new Set([...((made.required ?? []) as string[]), 'apiVersion', 'kind', 'metadata'])],
  };
}

/** The definitions that one refers to, through others as well. */
function reached(
  from: string,
  definitions: Swagger['definitions'],
  withItself = false,
): Record<string, Schema> {
  const found = new Map<string, Schema>();
  const take = (name: string) => {
    const definition = definitions[name];
    if (definition === undefined || found.has(name)) return;
    found.set(name, textOrNumber.has(name) ? { type: ['string', 'number'] } : strict(definition));
    referencesOf(definition).forEach(take);
  };
  if (withItself) take(from);
  else referencesOf(definitions[from]).forEach(take);
  return Object.fromEntries(found);
}

function referencesOf(value: unknown): string[] {
  if (value === null || typeof value !== 'object') return [];
  return Object.entries(value).flatMap(([key, inner]) =>
    key === '$ref' && typeof inner === 'string' ? [inner.slice(reference.length)] : referencesOf(inner),
  );
}

/** Of a schema as OpenAPI writes it; the keywords that JSON schema does not know are left out. */
export function strict(schema: Schema): Schema {
  if (schema['x-kubernetes-int-or-string'] === true) return { type: ['string', 'integer'] };
  const made: Record<string, unknown> = {};
  for (const [keyword, value] of Object.entries(schema)) {
    if (keyword.startsWith('x-') || passedOver.has(keyword)) continue;
    if (keyword === 'properties')
      made.properties = Object.fromEntries(
        Object.entries(value as Record<string, Schema>).map(([name, inner]) => [name, strict(inner)]),
      );
    else if (['allOf', 'anyOf', 'oneOf'].includes(keyword))
      // Branches name fields that the whole defines: alone they are not closed.
      made[keyword] = value;
    else if (keyword === 'items' || keyword === 'additionalProperties')
      made[keyword] = typeof value === 'object' ? strict(value as Schema) : value;
    else made[keyword] = value;
  }
  if (schema.nullable === true && typeof schema.type === 'string') made.type = [schema.type, 'null'];
  const isOpen = schema['x-kubernetes-preserve-unknown-fields'] === true || 'additionalProperties' in schema;
  if (schema.properties !== undefined && !isOpen) made.additionalProperties = false;
  if (schema['x-kubernetes-embedded-resource'] === true) delete made.additionalProperties;
  return made;
}

/** `format` is no rule of the API server for built-in kinds; `default` and `description` are no rules at all. */
const passedOver = new Set([
  'format',
  'description',
  'default',
  'nullable',
  'example',
  'externalDocs',
  'title',
]);
