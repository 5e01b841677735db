import { runJob } from '../runtime/run-job.ts';
import { eventReplayJob } from './job.ts';

process.exitCode = await runJob(eventReplayJob, { environment: process.env });
