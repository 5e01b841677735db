import { runJob } from '../runtime/run-job.ts';
import { wiringJob } from './job.ts';

process.exitCode = await runJob(wiringJob, { environment: process.env });
