/**
 * What the module is installed into: one folder per major version of Nest, with ORMs spread over them so that each is
 * there once and few installs are needed. Versions are exact; what they are is what a row of the matrix proves.
 */

/** One tiny service of the matrix. */
export interface TrialService {
  /** The file in services/ that opens its database. */
  driver: 'pg' | 'drizzle' | 'prisma' | 'typeorm' | 'knex';
  module: 'esm' | 'cjs';
}

/** One folder with an installed tarball. */
export interface Environment {
  name: 'nest10' | 'nest11' | 'nest12';
  dependencies: Readonly<Record<string, string>>;
  services: readonly TrialService[];
  /** How its services are compiled: TypeScript 5 as it comes with Nest 10, or that of this repository. */
  compiler: 'own' | 'ours';
  compilerOptions: Readonly<Record<string, unknown>>;
}

const COMMON = {
  pg: '8.23.1',
  '@types/pg': '8.23.1',
  '@types/node': '24.19.2',
  'reflect-metadata': '0.2.2',
  rxjs: '7.8.2',
};
const NODENEXT = { module: 'nodenext', moduleResolution: 'nodenext' };

export const ENVIRONMENTS: readonly Environment[] = [
  {
    name: 'nest10',
    dependencies: {
      ...COMMON,
      '@nestjs/common': '10.4.22',
      '@nestjs/core': '10.4.22',
      '@nestjs/platform-express': '10.4.22',
      '@nestjs/event-emitter': '2.1.1',
      typeorm: '0.3.31',
      typescript: '5.9.3',
    },
    services: [{ driver: 'typeorm', module: 'cjs' }],
    compiler: 'own',
    // What `nest new` wrote for Nest 10: node10 resolution knows no exports map, only main, types and typesVersions.
    compilerOptions: { module: 'commonjs' },
  },
  {
    name: 'nest11',
    dependencies: {
      ...COMMON,
      '@nestjs/common': '11.2.10',
      '@nestjs/core': '11.2.10',
      '@nestjs/platform-express': '11.2.10',
      '@nestjs/event-emitter': '3.1.0',
      knex: '3.3.0',
      prisma: '7.10.0',
      '@prisma/client': '7.10.0',
      '@prisma/adapter-pg': '7.10.0',
    },
    services: [
      { driver: 'prisma', module: 'esm' },
      { driver: 'knex', module: 'cjs' },
    ],
    compiler: 'ours',
    compilerOptions: NODENEXT,
  },
  {
    name: 'nest12',
    dependencies: {
      ...COMMON,
      '@nestjs/common': '12.5.1',
      '@nestjs/core': '12.5.1',
      '@nestjs/platform-express': '12.5.1',
      '@nestjs/event-emitter': '12.0.1',
      'drizzle-orm': '0.45.4',
      typeorm: '1.1.1',
    },
    services: [
      { driver: 'pg', module: 'esm' },
      { driver: 'drizzle', module: 'esm' },
      { driver: 'typeorm', module: 'cjs' },
    ],
    compiler: 'ours',
    compilerOptions: NODENEXT,
  },
];
