/** Values with everything on, each different from its default: what does not arrive is seen to be missing. */
import type { Values } from './render.ts';

export const everything: Values = {
  installation: 'orders',
  service: {
    name: 'orders',
    port: 8080,
    targetPort: 'web',
    podLabels: { app: 'orders' },
    replayPath: '/internal/replay',
    correctionsPath: '/internal/corrections',
    eventsTable: 'shop.events',
    deliveriesTable: 'shop.deliveries',
    timeZone: 'Europe/Madrid',
  },
  database: {
    existingSecret: 'orders-database',
    keys: { owner: 'a', jobs: 'b', exporter: 'c', retention: 'd' },
    schema: 'net',
    certificateAuthority: { existingSecret: 'orders-ca', key: 'root.pem' },
  },
  token: { existingSecret: 'orders-token', key: 'bearer' },
  checks: [
    {
      name: 'orders',
      facts: { table: 'orders', key: ['id'], at: 'done_at' },
      ledger: { table: 'bills', key: ['order_id'], at: 'made_at' },
    },
  ],
  settings: { CF_LOG_LEVEL: 'warn', CF_SHUTDOWN_SECONDS: 40 },
  extraEnv: [{ name: 'HTTPS_PROXY', value: 'http://proxy' }],
  jobs: {
    defaults: {
      timeZone: 'Europe/Lisbon',
      startingDeadlineSeconds: 77,
      successfulJobsHistoryLimit: 5,
      failedJobsHistoryLimit: 4,
      backoffLimit: 6,
      ttlSecondsAfterFinished: 99,
    },
    schema: { activeDeadlineSeconds: 44, backoffLimit: 9, settings: { CF_LOCK_TIMEOUT_SECONDS: 2 } },
    billingReconciliation: {
      repairLimit: 7,
      settings: { CF_SLACK_SECONDS: 10 },
      tail: { schedule: '1 * * * *', activeDeadlineSeconds: 11, overrides: { backoffLimit: 1 } },
      incremental: { schedule: '2 * * * *', activeDeadlineSeconds: 12 },
      full: { schedule: '3 * * * *', activeDeadlineSeconds: 13 },
    },
    eventReplay: {
      schedule: '4 * * * *',
      activeDeadlineSeconds: 14,
      graceSeconds: 90,
      settings: { CF_LANES: 3 },
    },
    flowProbe: {
      enabled: true,
      schedule: '5 * * * *',
      activeDeadlineSeconds: 15,
      flow: { mark: 'a-mark', steps: [], bill: { check: 'orders', key: ['{run}'] } },
      token: { existingSecret: 'orders-public', key: 'public' },
      settings: { CF_PROBE_BILL_SECONDS: 5 },
    },
    backupRetention: {
      enabled: true,
      schedule: '6 * * * *',
      activeDeadlineSeconds: 16,
      days: 30,
      dryRun: true,
      settings: { CF_RETENTION_BATCH_SIZE: 10 },
    },
  },
  exporter: { replicas: 2, port: 9999, settings: { CF_GATE_SAMPLE: 60 } },
  thresholds: {
    eventLossRatio: 0.007,
    billingErrorRatio: 0.029,
    ratioBadMinimum: 4,
    ratioJudgedMinimum: 500,
  },
};

/** Every release is guarded by a Rollout that adopts the service's Deployment. */
export const guarded: Values = {
  rollout: { enabled: true, deployment: 'billing', replicas: 4, router: { type: 'traefik' } },
  metrics: { service: { elsewhere: true } },
};
