import { runJob } from '../runtime/run-job.ts';
import { exporterJob } from './job.ts';

process.exitCode = await runJob(exporterJob, { environment: process.env });
