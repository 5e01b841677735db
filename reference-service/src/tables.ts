import { bigint, integer, pgTable, primaryKey, smallint, text, timestamp, uuid } from 'drizzle-orm/pg-core';

// The tables as the code sees them; migrations/ makes them, and a test holds both equal. Constraints beyond keys stand
// in the migrations alone.

const time = (name: string) => timestamp(name, { withTimezone: true });
/** In minor units; safe as a number up to 2^53. */
const minor = (name: string) => bigint(name, { mode: 'number' });

/** A session a mentor gives; with `completedAt` set it must be billed. */
export const sessions = pgTable('sessions', {
  id: uuid('id').primaryKey(),
  contractId: text('contract_id').notNull(),
  mentorId: text('mentor_id').notNull(),
  amountMinor: minor('amount_minor').notNull(),
  currency: text('currency').notNull(),
  createdAt: time('created_at').notNull().defaultNow(),
  completedAt: time('completed_at'),
});

/** What a completed session was worth to the one who had it. */
export const sessionEvaluations = pgTable('session_evaluations', {
  sessionId: uuid('session_id')
    .primaryKey()
    .references(() => sessions.id),
  score: smallint('score').notNull(),
  evaluatedAt: time('evaluated_at').notNull().defaultNow(),
});

/** What is owed to a mentor; a row is never changed, only reversed by another. */
export const ledgers = pgTable('mentor_payable_ledgers', {
  id: bigint('id', { mode: 'number' }).primaryKey().generatedAlwaysAsIdentity(),
  sessionId: uuid('session_id').notNull(),
  mentorId: text('mentor_id').notNull(),
  amountMinor: minor('amount_minor').notNull(),
  currency: text('currency').notNull(),
  idempotencyKey: text('idempotency_key').notNull().unique(),
  reversesId: bigint('reverses_id', { mode: 'number' }),
  createdAt: time('created_at').notNull().defaultNow(),
});

/** What was done on an approved request. */
export const billingCorrections = pgTable(
  'billing_corrections',
  {
    requestId: text('request_id').notNull(),
    sessionId: uuid('session_id').notNull(),
    kind: text('kind', { enum: ['duplicate', 'amount'] }).notNull(),
    requestedBy: text('requested_by').notNull(),
    approvedBy: text('approved_by').notNull(),
    reason: text('reason').notNull(),
    reversedIds: bigint('reversed_ids', { mode: 'number' }).array().notNull(),
    billedId: bigint('billed_id', { mode: 'number' }),
    correctedAt: time('corrected_at').notNull().defaultNow(),
  },
  (table) => [primaryKey({ columns: [table.requestId, table.sessionId] })],
);

/** Units of a service at a price, agreed with one mentor. */
export const contracts = pgTable('contracts', {
  id: uuid('id').primaryKey(),
  mentorId: text('mentor_id').notNull(),
  currency: text('currency').notNull(),
  unitPriceMinor: minor('unit_price_minor').notNull(),
  totalUnits: integer('total_units').notNull(),
  consumedUnits: integer('consumed_units').notNull().default(0),
  status: text('status', { enum: ['signed', 'active'] })
    .notNull()
    .default('signed'),
  signedAt: time('signed_at').notNull().defaultNow(),
  activatedAt: time('activated_at'),
});

/** Units that were consumed of a contract at one time. */
export const serviceConsumptions = pgTable('service_consumptions', {
  id: uuid('id').primaryKey(),
  contractId: uuid('contract_id')
    .notNull()
    .references(() => contracts.id),
  units: integer('units').notNull(),
  consumedAt: time('consumed_at').notNull().defaultNow(),
});

/** When a contract became active, as learnt from the event. */
export const contractActivations = pgTable('contract_activations', {
  contractId: uuid('contract_id').primaryKey(),
  eventId: text('event_id').notNull(),
  activatedAt: time('activated_at').notNull(),
  recordedAt: time('recorded_at').notNull().defaultNow(),
});

/** The events of consumption that are in the balance already. */
export const countedConsumptions = pgTable('counted_consumptions', {
  eventId: text('event_id').primaryKey(),
  contractId: uuid('contract_id').notNull(),
  units: integer('units').notNull(),
  countedAt: time('counted_at').notNull().defaultNow(),
});

/** What a contract still holds, summed up from events; opened late where its signing is learnt after a consumption. */
export const contractBalances = pgTable('contract_balances', {
  contractId: uuid('contract_id').primaryKey(),
  totalUnits: integer('total_units'),
  consumedUnits: integer('consumed_units').notNull().default(0),
  openedAt: time('opened_at'),
});

/** To whom a contract's sessions are owed. */
export const mentorPayableAccounts = pgTable('mentor_payable_accounts', {
  contractId: uuid('contract_id').primaryKey(),
  mentorId: text('mentor_id').notNull(),
  currency: text('currency').notNull(),
  openedAt: time('opened_at').notNull().defaultNow(),
});

/** A session as stored. */
export type Session = typeof sessions.$inferSelect;
/** An evaluation as stored. */
export type SessionEvaluation = typeof sessionEvaluations.$inferSelect;
/** A ledger row as stored. */
export type Ledger = typeof ledgers.$inferSelect;
/** A contract as stored. */
export type Contract = typeof contracts.$inferSelect;
/** A consumption as stored. */
export type ServiceConsumption = typeof serviceConsumptions.$inferSelect;
