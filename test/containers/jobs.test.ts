/** Every job on the newest Postgres that is supported, and on an older one. */
import { describe } from 'vitest';
import { everyJob } from './every-job.ts';

describe.each(['postgres:18', 'postgres:15'])('on %s', (postgres) => {
  everyJob({ postgres });
});
