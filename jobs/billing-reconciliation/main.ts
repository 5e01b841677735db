import { runJob } from '../runtime/run-job.ts';
import { billingReconciliationJob } from './job.ts';

process.exitCode = await runJob(billingReconciliationJob, { environment: process.env });
