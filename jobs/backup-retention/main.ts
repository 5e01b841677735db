import { runJob } from '../runtime/run-job.ts';
import { backupRetentionJob } from './job.ts';

process.exitCode = await runJob(backupRetentionJob, { environment: process.env });
