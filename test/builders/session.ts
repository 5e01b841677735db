/** A database session of its own, as another service or person would hold it. */
import { Client } from 'pg';

export interface OtherSession {
  query<Row = Record<string, unknown>>(text: string, params?: readonly unknown[]): Promise<Row[]>;
  end(): Promise<void>;
}

export async function openSession(url: string, applicationName = 'other'): Promise<OtherSession> {
  const client = new Client({ connectionString: url, application_name: applicationName });
  client.on('error', () => undefined);
  await client.connect();
  return {
    async query<Row>(text: string, params: readonly unknown[] = []) {
      return (await client.query(text, [...params])).rows as Row[];
    },
    async end() {
      await client.end();
    },
  };
}
