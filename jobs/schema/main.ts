import { runJob } from '../runtime/run-job.ts';
import { schemaJob } from './schema-job.ts';

process.exitCode = await runJob(schemaJob, { environment: process.env });
