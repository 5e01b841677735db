import { defineConfig } from 'vitest/config';

const postgres = { globalSetup: 'test/postgres/global-setup.ts', testTimeout: 60_000, hookTimeout: 60_000 };

export default defineConfig({
  test: {
    // Two cores are the smallest machine we know of; each file has a database of its own.
    maxWorkers: 3,
    coverage: {
      provider: 'v8',
      include: ['jobs/**/*.ts'],
      // main.ts only calls runJob: it runs in child processes, which v8 coverage does not see.
      exclude: ['**/*.test.ts', 'jobs/*/main.ts'],
      thresholds: { statements: 90, branches: 85 },
      reporter: ['text-summary', 'json-summary', 'html'],
    },
    projects: [
      { test: { name: 'jobs', include: ['{jobs,scripts,test/docs}/**/*.test.ts'], ...postgres } },
      {
        test: {
          name: 'service',
          include: ['nestjs/**/*.test.ts', 'reference-service/**/*.test.ts', 'test/journeys/**/*.test.ts'],
          ...postgres,
        },
      },
      { test: { name: 'repo', include: ['test/repo/*.test.ts'], testTimeout: 60_000 } },
    ],
  },
});
