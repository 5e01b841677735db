/**
 * Customers: completes sessions through the router at a steady rate, each exactly once, in the order of their numbers.
 * It runs in a pod, from a ConfigMap, so it is plain JavaScript without imports of ours.
 */
import { Agent, request } from 'node:http';

const { TARGET = '', HOST_HEADER = '', RATE = '100', SESSIONS = '0' } = process.env;
const target = new URL(TARGET);
const sessions = Number(SESSIONS);
const rate = Number(RATE);
const agent = new Agent({ keepAlive: true, maxSockets: 32 });
const tally = { completed: 0, refused: 0 };
let sent = 0;
let running = true;
process.once('SIGTERM', () => {
  running = false;
});

/** As test/cluster/billing-service.ts writes them. */
const idOf = (number) => `00000000-0000-4000-8000-${String(number).padStart(12, '0')}`;

function complete(number, attempt = 1) {
  const again = () => {
    tally.refused += 1;
    // A pod that went away between two requests: the customer presses the button again. Once completed it stays so.
    if (attempt < 10) setTimeout(() => complete(number, attempt + 1), 200 * attempt);
  };
  request(
    {
      agent,
      host: target.hostname,
      port: target.port || 80,
      method: 'POST',
      path: `/sessions/${idOf(number)}/complete`,
      headers: { host: HOST_HEADER },
      timeout: 10_000,
    },
    (response) => {
      response.resume();
      response.once('end', () => {
        if (response.statusCode === 200) tally.completed += 1;
        else again();
      });
    },
  )
    .once('timeout', function late() {
      this.destroy(new Error('late'));
    })
    .once('error', again)
    .end();
}

const startedAt = performance.now();
const pace = setInterval(() => {
  const due = Math.min(sessions, Math.floor(((performance.now() - startedAt) / 1_000) * rate));
  while (running && sent < due) {
    sent += 1;
    complete(sent);
  }
  if (!running) {
    clearInterval(pace);
    clearInterval(report);
  }
}, 20);
const report = setInterval(() => process.stdout.write(`${JSON.stringify({ sent, ...tally })}\n`), 1_000);
