/** A contender of bench:replay: the POSTs alone, with no database. Nothing that sends each event by itself is faster. */
import { contend } from './bench-replay-contender.ts';
import { eventId, onLanes, openPoster } from './bench-replay-events.ts';

await contend(async ({ sinkUrl, lanes, events }) => {
  const ids = Array.from({ length: events }, (_, index) => eventId(index + 1));
  const poster = openPoster(sinkUrl, lanes);
  return {
    async work() {
      let next = 0;
      await onLanes(lanes, async () => {
        const id = ids[next];
        if (id === undefined) return false;
        next += 1;
        await poster.post(id);
        return true;
      });
    },
    close: () => poster.close(),
  };
});
