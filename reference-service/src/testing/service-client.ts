/** The token every service of a test is started with. */
export const TOKEN = 'the-token-of-the-trial';

/** What every service of a test is started with. */
export const TRIAL_SETTINGS = {
  PORT: '0',
  HOST: '127.0.0.1',
  REPLAY_TOKEN: TOKEN,
  FAULTS: 'true',
  POD_NAME: 'pod-1',
} as const;

/** An answer over HTTP. */
export interface Answer {
  status: number;
  headers: Headers;
  /** The header counterfoil-outcome. */
  outcome: string | null;
  text: string;
  // biome-ignore lint/suspicious/noExplicitAny: a test says itself what it expects of a body.
  body: any;
}

/** What a test asks of a service. */
export interface ServiceClient {
  url: string;
  get(path: string, headers?: Record<string, string>): Promise<Answer>;
  post(path: string, body?: unknown, headers?: Record<string, string>): Promise<Answer>;
  /** With the token of the admin endpoints. */
  admin(path: string, body: unknown): Promise<Answer>;
  /** Creates a session and gives its id. */
  createSession(more?: object): Promise<string>;
  /** Creates a session and completes it. */
  completeSession(more?: object): Promise<string>;
  /** Arms a fault for a minute. */
  arm(fault: string, more?: object): Promise<void>;
  /** Disarms every fault. */
  disarm(): Promise<void>;
}

/** A client of the service at `url`. */
export function clientOf(url: string): ServiceClient {
  const request = async (path: string, init: RequestInit): Promise<Answer> => {
    const response = await fetch(url + path, init);
    const { status, headers } = response;
    const text = await response.text();
    const isJson = headers.get('content-type')?.includes('json') === true;
    const outcome = headers.get('counterfoil-outcome');
    return { status, headers, outcome, text, body: isJson ? JSON.parse(text) : undefined };
  };
  const expectStatus = ({ status, text }: Answer, expected: number): void => {
    if (status !== expected) throw new Error(`${expected} expected: ${status} ${text}`);
  };
  const client: ServiceClient = {
    url,
    get: (path, headers = {}) => request(path, { method: 'GET', headers }),
    post: (path, body = {}, headers = {}) =>
      request(path, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headers },
        body: typeof body === 'string' ? body : JSON.stringify(body),
      }),
    admin: (path, body) => client.post(path, body, { authorization: `Bearer ${TOKEN}` }),
    async createSession(more = {}) {
      const answer = await client.post('/sessions', {
        contractId: 'contract-1',
        mentorId: 'mentor-1',
        amountMinor: 12_500,
        currency: 'EUR',
        ...more,
      });
      expectStatus(answer, 201);
      return answer.body.id as string;
    },
    async completeSession(more = {}) {
      const id = await client.createSession(more);
      expectStatus(await client.post(`/sessions/${id}/complete`), 200);
      return id;
    },
    async arm(fault, more = {}) {
      expectStatus(await client.admin('/admin/faults', { fault, rate: 1, forSeconds: 60, ...more }), 204);
    },
    async disarm() {
      const headers = { authorization: `Bearer ${TOKEN}` };
      expectStatus(await request('/admin/faults', { method: 'DELETE', headers }), 204);
    },
  };
  return client;
}

/** Asks again until `probe` gives something, for forty seconds at most; `what` names what never came. */
export async function eventually<Result>(
  what: string,
  probe: () => Promise<Result | undefined | false> | Result | undefined | false,
): Promise<Result> {
  for (const endsAt = performance.now() + 40_000; performance.now() < endsAt; ) {
    const result = await probe();
    if (result !== undefined && result !== false) return result;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`never came: ${what}`);
}
