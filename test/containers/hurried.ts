/** Values by which what lasts minutes in production lasts seconds here: nothing else differs from a plain installation. */
import type { Values } from '../chart/render.ts';

/** How long a lease outlives a run that was killed, and how old something must be to be judged. */
const LEASE_SECONDS = 3;

/** Of the reference service, amounts included; `facts` over its facts. */
export const check = (facts: Values = {}) => ({
  name: 'session-billing',
  facts: {
    table: 'sessions',
    key: ['id'],
    at: 'completed_at',
    amount: 'amount_minor',
    currency: 'currency',
    ...facts,
  },
  ledger: {
    table: 'mentor_payable_ledgers',
    key: ['session_id'],
    at: 'created_at',
    amount: 'amount_minor',
    currency: 'currency',
    reverses: { column: 'reverses_id' },
  },
  event: { name: 'services.session.completed.v1', key: ['sessionId'] },
  grace: '1s',
});

export const hurried: Values = {
  checks: [check()],
  jobs: {
    billingReconciliation: { settings: { CF_LEASE_SECONDS: LEASE_SECONDS } },
    eventReplay: { graceSeconds: 1, settings: { CF_LEASE_SECONDS: LEASE_SECONDS, CF_POLL_SECONDS: 1 } },
    flowProbe: { settings: { CF_PROBE_BILL_SECONDS: 5 } },
    backupRetention: { settings: { CF_LEASE_SECONDS: LEASE_SECONDS } },
  },
};
