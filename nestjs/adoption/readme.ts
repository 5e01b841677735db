/** The module's README as a reader follows it: its files and its commands. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { MODULE } from './packed-module.ts';

/** What the README says in "Adopt it in five minutes". */
export interface Adoption {
  /** Whole files by path, each a block that begins with its own path as a comment. */
  files: Map<string, string>;
  /** Lines of the blocks for a shell, in order. */
  commands: string[];
}

/** Reads the section; throws where a block is neither a file nor for a shell, since then nobody tries it. */
export function readAdoption(): Adoption {
  const readme = readFileSync(join(MODULE, 'README.md'), 'utf8');
  const [, section] = /^## Adopt it in five minutes\n([\s\S]*?)^## /m.exec(readme) ?? [];
  if (section === undefined) throw new Error('the README has no section "Adopt it in five minutes"');
  const files = new Map<string, string>();
  const commands: string[] = [];
  for (const [, language, text = ''] of section.matchAll(/^```(\w*)\n([\s\S]*?)^```$/gm)) {
    const [, path] = /^\/\/ (src\/[\w.-]+\.ts)\n/.exec(text) ?? [];
    if (language === 'ts' && path !== undefined) files.set(path, text);
    else if (language === 'sh') commands.push(...text.trim().split('\n'));
    else throw new Error(`a block of the README is neither a file nor commands: ${text.slice(0, 40)}`);
  }
  return { files, commands };
}
