/** The ORMs of the environments, each opened in this process with the driver of this checkout on it. */
import { createRequire } from 'node:module';
import { join } from 'node:path';
import type { CounterfoilDriver } from '../src/driver.js';
import { knexDriver } from '../src/knex-driver.js';
import { type PrismaDriverOptions, prismaDriver } from '../src/prisma-driver.js';
import { typeormDriver } from '../src/typeorm-driver.js';

// biome-ignore lint/suspicious/noExplicitAny: the ORMs are installed outside the repository, their types with them; the matrix compiles against those.
export type Foreign = any;

/** One ORM on a pool of one connection: one that is not given back holds up the next test. */
export interface Bed {
  driver: CounterfoilDriver<never>;
  /** Writes a row of `completions` by the ORM's own means. */
  insert(handle: unknown, id: string): Promise<unknown>;
  /** Runs `work` in a nested transaction of the ORM. */
  nested(handle: unknown, work: (inner: unknown) => Promise<void>): Promise<unknown>;
  /** The ORM's own transaction, without the driver. */
  ownTransaction(work: (handle: unknown) => Promise<unknown>): Promise<unknown>;
  /** Any statement by the ORM's own means. */
  raw(handle: unknown, sql: string): Promise<unknown>;
  close(): Promise<void>;
  /** The ORM's own object, for what only it has. */
  orm: Foreign;
}

/** Opens an ORM on a database. */
export type OpenBed = (
  folders: Readonly<Record<string, string>>,
  url: string,
  options?: PrismaDriverOptions,
) => Promise<Bed>;

const load = (folder: string | undefined, name: string): Foreign =>
  createRequire(join(folder ?? '', 'package.json'))(name);

const typeorm =
  (environment: string): OpenBed =>
  async (folders, url, options) => {
    const { DataSource } = load(folders[environment], 'typeorm');
    const dataSource: Foreign = await new DataSource({
      type: 'postgres',
      url,
      extra: { max: 1 },
    }).initialize();
    return {
      driver: typeormDriver(dataSource, options) as unknown as CounterfoilDriver<never>,
      insert: (manager: Foreign, id) => manager.query('insert into completions (id) values ($1)', [id]),
      nested: (manager: Foreign, work) => manager.transaction(work),
      ownTransaction: (work) => dataSource.transaction(work),
      raw: (manager: Foreign, sql) => manager.query(sql),
      close: () => dataSource.destroy(),
      orm: dataSource,
    };
  };

const knex: OpenBed = async (folders, url, options) => {
  const database: Foreign = load(
    folders.nest11,
    'knex',
  )({
    client: 'pg',
    connection: url,
    pool: { min: 0, max: 1 },
  });
  return {
    driver: knexDriver(database, options) as unknown as CounterfoilDriver<never>,
    insert: (trx: Foreign, id) => trx('completions').insert({ id }),
    nested: (trx: Foreign, work) => trx.transaction(work),
    ownTransaction: (work) => database.transaction(work),
    raw: (trx: Foreign, sql) => trx.raw(sql),
    close: () => database.destroy(),
    orm: database,
  };
};

const prisma: OpenBed = async (folders, url, options) => {
  const { PrismaClient } = load(folders.nest11, '@prisma/client');
  const { PrismaPg } = load(folders.nest11, '@prisma/adapter-pg');
  const client: Foreign = new PrismaClient({ adapter: new PrismaPg({ connectionString: url, max: 1 }) });
  return {
    driver: prismaDriver(client, options) as unknown as CounterfoilDriver<never>,
    insert: (tx: Foreign, id) => tx.completion.create({ data: { id } }),
    nested: (tx: Foreign, work) => tx.$transaction(work),
    ownTransaction: (work) => client.$transaction(work),
    raw: (tx: Foreign, sql) => tx.$queryRawUnsafe(sql),
    close: () => client.$disconnect(),
    orm: client,
  };
};

/** By the name under which the tests show it. */
export const BEDS: readonly (readonly [string, OpenBed])[] = [
  ['TypeORM 0.3', typeorm('nest10')],
  ['TypeORM 1', typeorm('nest12')],
  ['Knex', knex],
  ['Prisma', prisma],
];
