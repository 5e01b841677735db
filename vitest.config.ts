import { defineConfig } from 'vitest/config';

const postgres = { globalSetup: 'test/postgres/global-setup.ts', testTimeout: 60_000, hookTimeout: 60_000 };

/** Pods that start, images that are loaded, analysis that is waited for; a test that takes longer says so. */
const patient = { testTimeout: 600_000, hookTimeout: 600_000 };

const covered = { statements: 90, branches: 85 };

export default defineConfig({
  test: {
    // Two cores are the smallest machine we know of; each file has a database of its own.
    maxWorkers: 3,
    coverage: {
      provider: 'v8',
      include: ['{jobs,nestjs,reference-service}/**/*.ts'],
      // What only starts a process runs in child processes, which v8 coverage does not see.
      exclude: [
        '**/*.test.ts',
        '**/testing/**',
        '**/dist/**',
        '**/main.ts',
        'nestjs/{adoption,compatibility}/**',
      ],
      // For each part on its own: a well-tested one must not carry another.
      thresholds: { 'jobs/**': covered, 'nestjs/**': covered, 'reference-service/**': covered },
      reporter: ['text-summary', 'json-summary', 'html'],
    },
    projects: [
      { test: { name: 'jobs', include: ['{jobs,scripts,test/docs}/**/*.test.ts'], ...postgres } },
      {
        test: {
          name: 'service',
          include: [
            'nestjs/**/*.test.ts',
            'reference-service/**/*.test.ts',
            'test/{journeys,chaos}/**/*.test.ts',
          ],
          exclude: ['nestjs/compatibility/**'],
          ...postgres,
        },
      },
      {
        test: {
          name: 'compatibility',
          include: ['nestjs/compatibility/*.test.ts'],
          ...postgres,
          // Installs other versions of Nest, and the ORMs: a project of its own, so that only its tests wait for it.
          globalSetup: [postgres.globalSetup, 'nestjs/compatibility/install.ts'],
        },
      },
      {
        test: {
          name: 'alerts',
          include: ['test/alerts/*.test.ts'],
          globalSetup: [postgres.globalSetup, 'test/alerts/global-setup.ts'],
          testTimeout: 120_000,
          // The first one may build promtool.
          hookTimeout: 600_000,
        },
      },
      {
        test: {
          name: 'dashboards',
          include: ['test/dashboards/*.test.ts'],
          globalSetup: 'test/alerts/global-setup.ts',
          testTimeout: 60_000,
        },
      },
      {
        test: {
          name: 'chart',
          include: ['test/chart/*.test.ts'],
          globalSetup: 'test/chart/global-setup.ts',
          // Hundreds of calls of helm, two at a time.
          testTimeout: 120_000,
          hookTimeout: 120_000,
        },
      },
      {
        test: {
          name: 'rollouts',
          include: ['test/rollouts/*.test.ts'],
          globalSetup: 'test/rollouts/global-setup.ts',
          testTimeout: 60_000,
        },
      },
      // Need a cluster, so they are left out of `npm test`: `npm run test:cluster`, which runs the first two side by side.
      { test: { name: 'cluster', include: ['test/cluster/*.test.ts'], ...postgres, ...patient } },
      { test: { name: 'cluster-load', include: ['test/cluster/load/*.test.ts'], ...patient } },
      // Takes hours: `npm run test:cluster:long`.
      { test: { name: 'cluster-long', include: ['test/cluster/long/*.test.ts'], ...patient } },
      // Needs a Docker daemon, so it is left out of `npm test`: `npm run test:containers`. Its first test builds both images.
      {
        test: {
          name: 'containers',
          include: ['test/containers/*.test.ts'],
          globalSetup: 'test/containers/global-setup.ts',
          ...patient,
        },
      },
      { test: { name: 'repo', include: ['test/{repo,tools}/*.test.ts'], testTimeout: 60_000 } },
    ],
  },
});
