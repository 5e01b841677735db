/** Progress of long work: a bar on a terminal, plain lines elsewhere. Always to standard error: results go to standard output. */
const BAR_WIDTH = 24;

export interface Progress {
  /** Runs one step; `report` takes the share that is done, from 0 to 1, and gives nothing back. */
  step<Result>(title: string, work: (report: (share: number) => void) => Promise<Result>): Promise<Result>;
}

export function createProgress(steps: number, stream: NodeJS.WriteStream = process.stderr): Progress {
  let current = 0;
  return {
    async step(title, work) {
      current += 1;
      const label = `[${current}/${steps}] ${title}`;
      const startedAt = Date.now();
      let share = 0;
      const draw = () => {
        const filled = Math.round(share * BAR_WIDTH);
        const bar = '█'.repeat(filled) + '░'.repeat(BAR_WIDTH - filled);
        stream.write(`\r\x1b[2K${bar} ${label} (${Math.round((Date.now() - startedAt) / 1_000)} s)`);
      };
      const timer = stream.isTTY ? setInterval(draw, 100) : undefined;
      if (stream.isTTY) draw();
      else stream.write(`${label} …\n`);
      try {
        const result = await work((done) => {
          share = Math.min(1, Math.max(share, done));
        });
        const tookSeconds = ((Date.now() - startedAt) / 1_000).toFixed(1);
        share = 1;
        if (stream.isTTY) stream.write(`\r\x1b[2K${'█'.repeat(BAR_WIDTH)} ${label} (${tookSeconds} s)\n`);
        else stream.write(`${label}: done in ${tookSeconds} s\n`);
        return result;
      } catch (error) {
        stream.write(stream.isTTY ? `\r\x1b[2K${label}: failed\n` : `${label}: failed\n`);
        throw error;
      } finally {
        clearInterval(timer);
      }
    },
  };
}
