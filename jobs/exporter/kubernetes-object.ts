/** What every object of Kubernetes has, and how the rest is read: leniently, since none of it is ours. */
import { z } from 'zod';

export interface ObjectHead {
  readonly name: string;
  readonly uid: string;
  readonly createdAt: number;
  /** The uid of the Rollout that it belongs to. */
  readonly owner: string | undefined;
}

/** What is missing or of another type reads as undefined. */
export const lenient = <Schema extends z.ZodType>(schema: Schema) =>
  schema.optional().catch(() => undefined as z.output<Schema> | undefined);

/** A time of Kubernetes, in milliseconds since 1970. */
export const time = z
  .string()
  .transform((text) => Date.parse(text))
  .refine((at) => Number.isFinite(at));

const headShape = z.object({
  metadata: z.object({
    name: z.string().min(1),
    uid: z.string().min(1),
    creationTimestamp: time,
    ownerReferences: lenient(
      z.array(
        z.object({ kind: lenient(z.string()), uid: lenient(z.string()), controller: lenient(z.boolean()) }),
      ),
    ),
  }),
});

export function objectHead(object: unknown): ObjectHead | undefined {
  const parsed = headShape.safeParse(object);
  if (!parsed.success) return undefined;
  const { name, uid, creationTimestamp, ownerReferences } = parsed.data.metadata;
  const owner = ownerReferences?.find(({ kind, controller }) => kind === 'Rollout' && controller === true);
  return { name, uid, createdAt: creationTimestamp, owner: owner?.uid };
}
