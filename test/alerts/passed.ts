import { expect } from 'vitest';

/** What promtool's answer is compared with, so that a failed test shows its output. */
export const PASSED = expect.objectContaining({ passed: true, output: expect.stringContaining('SUCCESS') });
