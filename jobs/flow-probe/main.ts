import { runJob } from '../runtime/run-job.ts';
import { flowProbeJob } from './job.ts';

process.exitCode = await runJob(flowProbeJob, { environment: process.env });
