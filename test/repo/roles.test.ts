import { join } from 'node:path';
import { expect, test } from 'vitest';
import { fixtures, listFiles, readText, repository } from './files.ts';
import { roleProblems } from './roles.ts';

test('no Role that we ship may make, change or remove anything that runs', () => {
  expect(roleProblems(repository)).toEqual([]);
  // The check has something to look at.
  expect(
    listFiles(repository, '.yaml').some((path) => /^kind: Role$/m.test(readText(repository, path))),
  ).toBe(true);
});

test('each right that goes too far is named, and its nearest permitted one is not', () => {
  expect(roleProblems(join(fixtures, 'roles'))).toEqual([
    'broken.yaml: holds a Role and cannot be read',
    'roles.yaml: everything may * *',
    'roles.yaml: in-a-list may create jobs',
    'roles.yaml: restarter may delete pods',
    'roles.yaml: restarter may patch deployments',
    'roles.yaml: scaler may patch deployments/scale',
    'roles.yaml: shell may create pods/exec',
    'roles.yaml: starter may create cronjobs',
    'roles.yaml: starter may create jobs',
  ]);
});
