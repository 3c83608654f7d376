/**
 * The newest alone token that this host's state of the guest is as new as; one decimal number.
 *
 * A speaker saves what `goAlone`, `takeOver` and `learnt` tell. A secondary saves 0 before a
 * synchronisation begins to overwrite its images, for they are nobody's state then, the session's
 * token once its images have all that clients see, and 0 again before its guest executes: then they
 * have not. A crash in between costs nothing but a question to the
 * operator: a token that is too old is refused by the witness, and a host's own never is.
 */
import { mkdir, readFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { OperatorError } from '../../lib/index.js';
import { writeDurably } from '../../linux/index.js';

export class TokenFile {
  readonly #path: string;
  #token: number;
  #saving: Promise<void> = Promise.resolve();

  private constructor(path: string, token: number) {
    this.#path = path;
    this.#token = token;
  }

  /** A file that is missing means 0; one that holds something else throws `OperatorError`. */
  static async open(path: string): Promise<TokenFile> {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    return new TokenFile(path, await readToken(path));
  }

  get token(): number {
    return this.#token;
  }

  /** Resolves once it is durable; several at once are saved in order. */
  save(token: number): Promise<void> {
    this.#token = token;
    // One that failed was told to its caller, and does not keep the next from being tried.
    const saved = this.#saving.catch(() => {}).then(() => this.#write(token));
    this.#saving = saved;
    return saved;
  }

  #write(token: number): Promise<void> {
    return writeDurably(this.#path, `${token}\n`);
  }
}

async function readToken(path: string): Promise<number> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 0;
    throw error;
  }
  const token = /^\d{1,16}\n?$/.test(text) ? Number(text) : Number.NaN;
  if (Number.isSafeInteger(token)) return token;
  throw new OperatorError(
    'COLO_E_TOKEN_FILE',
    `${path} holds ${JSON.stringify(text.slice(0, 40))} instead of a number; ` +
      'remove it: the witness knows whose state is the newest',
  );
}
