import { prismaDriver } from '@counterfoil/nestjs/prisma';
import { PrismaPg } from '@prisma/adapter-pg';
import { PrismaClient } from '@prisma/client';
import { databaseUrl, serve } from './service.js';

const prisma = new PrismaClient({ adapter: new PrismaPg({ connectionString: databaseUrl() }) });

void serve({
  driver: prismaDriver(prisma),
  insert: (tx, table, id) =>
    table === 'bills' ? tx.bill.create({ data: { id } }) : tx.completion.create({ data: { id } }),
  close: () => prisma.$disconnect(),
});
