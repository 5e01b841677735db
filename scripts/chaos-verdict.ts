/** What became of every completed session, read from the service's own tables without any of our code. */
import type { Query } from './chaos-database.ts';

export interface Verdict {
  readonly completed: number;
  /** Completed and without a live bill. */
  readonly lost: number;
  /** With more than one live bill. */
  readonly billedTwice: number;
  readonly stillPending: number;
}

export async function judge(query: Query): Promise<Verdict> {
  const [row] = await query<Verdict>(
    `with live as (
       select l.session_id, count(*) as bills
         from mentor_payable_ledgers l
        where l.reverses_id is null
          and not exists (select from mentor_payable_ledgers r where r.reverses_id = l.id)
        group by l.session_id
     )
     select (select count(*) from sessions where completed_at is not null)::integer as completed,
            (select count(*) from sessions s
              where s.completed_at is not null
                and not exists (select from live where live.session_id = s.id))::integer as lost,
            (select count(*) from live where bills > 1)::integer as "billedTwice",
            (select count(*) from event_backups where status = 'pending')::integer as "stillPending"`,
  );
  if (row === undefined) throw new Error('the verdict has no row');
  return row;
}

/** How many of these sessions are not completed, although their callers were told so: lost before any of our tables. */
export async function countForgotten(query: Query, answered: readonly string[]): Promise<number> {
  const [row] = await query<{ forgotten: number }>(
    `select count(*)::integer as forgotten from unnest($1::uuid[]) as a (id)
      where not exists (select from sessions s where s.id = a.id and s.completed_at is not null)`,
    [answered],
  );
  if (row === undefined) throw new Error('the count has no row');
  return row.forgotten;
}
