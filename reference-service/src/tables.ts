import { bigint, pgTable, text, timestamp, uuid } from 'drizzle-orm/pg-core';

/** A session a mentor gives; with `completedAt` set it must be billed. */
export const sessions = pgTable('sessions', {
  id: uuid('id').primaryKey(),
  contractId: text('contract_id').notNull(),
  mentorId: text('mentor_id').notNull(),
  /** In minor units; safe as a number up to 2^53. */
  amountMinor: bigint('amount_minor', { mode: 'number' }).notNull(),
  currency: text('currency').notNull(),
  createdAt: timestamp('created_at', { withTimezone: true }).notNull().defaultNow(),
  completedAt: timestamp('completed_at', { withTimezone: true }),
});

/** What is owed to a mentor; a row is never changed, only reversed by another. */
export const ledgers = pgTable('mentor_payable_ledgers', {
  id: bigint('id', { mode: 'number' }).primaryKey().generatedAlwaysAsIdentity(),
  sessionId: uuid('session_id').notNull(),
  mentorId: text('mentor_id').notNull(),
  amountMinor: bigint('amount_minor', { mode: 'number' }).notNull(),
  currency: text('currency').notNull(),
  idempotencyKey: text('idempotency_key').notNull().unique(),
  reversesId: bigint('reverses_id', { mode: 'number' }),
  createdAt: timestamp('created_at', { withTimezone: true }).notNull().defaultNow(),
});

/** A session as stored. */
export type Session = typeof sessions.$inferSelect;

/** A ledger row as stored. */
export type Ledger = typeof ledgers.$inferSelect;
