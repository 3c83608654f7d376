/** The grammar of `colo pki`. Arguments in, a wish out; nothing is done. */
import type { Argv } from 'yargs';
import { integerParser, PKI_DIR, parsePeerName } from '../../config/index.js';
import { OperatorError } from '../../lib/index.js';
import {
  CA_DAYS_DEFAULT,
  CA_DAYS_MAX,
  HOST_DAYS_DEFAULT,
  HOST_DAYS_MAX,
  HOST_NAMES_MAX,
} from '../limits.js';
import { named } from '../named-argument.js';
import type { InitWish, IssueWish } from './authority.js';
import type { ShowWish } from './certificate-file.js';

export type PkiWish =
  | { readonly kind: 'init'; readonly init: InitWish }
  | { readonly kind: 'issue'; readonly issue: IssueWish }
  | { readonly kind: 'show'; readonly show: ShowWish };

/** Of a certificate's subject (RFC 5280, ub-common-name). */
const COMMON_NAME_LENGTH_MAX = 64;

const DIR = {
  type: 'string',
  requiresArg: true,
  default: PKI_DIR,
  describe: 'Folder of the CA and the certificates',
} as const;

/** `path` makes one absolute. */
export function definePki(
  base: Argv<{ readonly json: boolean }>,
  hand: (wish: PkiWish) => void,
  path: (name: string) => string,
): void {
  base.command('pki', 'Make and show the certificates that the hosts know each other by', (pki) => {
    defineInit(pki, hand, path);
    defineIssue(pki, hand, path);
    defineShow(pki, hand, path);
    return pki.demandCommand(1, 1, 'found no command behind pki, expected init, issue or show');
  });
}

type Define = (...args: Parameters<typeof definePki>) => void;

const defineInit: Define = (pki, hand, path) => {
  pki.command(
    'init',
    'Make a CA, on one of the hosts or on another one',
    (command) =>
      command.option('dir', DIR).option('days', {
        type: 'string',
        requiresArg: true,
        default: String(CA_DAYS_DEFAULT),
        describe: 'How long it is valid',
      }),
    ({ dir, days: text, json }) => {
      const days = named('--days', () => integerParser(1, CA_DAYS_MAX)(text));
      hand({ kind: 'init', init: { dir: path(dir), days, json } });
    },
  );
};

const defineIssue: Define = (pki, hand, path) => {
  pki.command(
    'issue <name> [other..]',
    'Make the key and the certificate of a host, or renew the certificate',
    (command) =>
      command
        .positional('name', {
          type: 'string',
          demandOption: true,
          describe: 'The name of the host, also of the files',
        })
        .positional('other', {
          type: 'string',
          array: true,
          default: [] as string[],
          defaultDescription: 'none; in a renewal those of before',
          describe: 'Names and addresses that the host is reached by, too',
        })
        .option('dir', DIR)
        .option('days', {
          type: 'string',
          requiresArg: true,
          describe: `How long it is valid; by default ${HOST_DAYS_DEFAULT}, or as long as its CA`,
        })
        .option('renew', {
          type: 'boolean',
          default: false,
          describe: 'Put a new certificate for the same key in the place of the one that is there',
        }),
    ({ name, other, dir, days: text, renew, json }) => {
      const days =
        text === undefined
          ? undefined
          : named('--days', () => integerParser(1, HOST_DAYS_MAX)(text));
      const host = named('name', () => parsePeerName(String(name)));
      const others = other.map((one) => named('other', () => parsePeerName(String(one))));
      if (host.length > COMMON_NAME_LENGTH_MAX || others.length > HOST_NAMES_MAX) {
        const expected = `expected at most ${COMMON_NAME_LENGTH_MAX} and ${HOST_NAMES_MAX}`;
        const found = `found a name of ${host.length} characters and ${others.length} others`;
        throw new OperatorError('COLO_E_USAGE', `${found}, ${expected}`);
      }
      hand({ kind: 'issue', issue: { dir: path(dir), name: host, others, days, renew, json } });
    },
  );
};

const defineShow: Define = (pki, hand, path) => {
  pki.command(
    'show [file..]',
    'Show what certificates are and how long they are valid',
    (command) =>
      command
        .positional('file', {
          type: 'string',
          array: true,
          default: [] as string[],
          defaultDescription: 'all of --dir',
          describe: 'File with certificates',
        })
        .option('dir', DIR),
    ({ file, dir, json }) => {
      const files = file.map((one) => path(String(one)));
      hand({ kind: 'show', show: { files, dir: path(dir), json } });
    },
  );
};
