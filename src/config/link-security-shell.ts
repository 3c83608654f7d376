/**
 * From paths to what the links are protected with: reads CA, certificate and key, and refuses what
 * would fail at the first connection, or would let in who should not be, with what to do about it.
 */
import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { closeSync, constants, fstatSync, openSync, readSync, type Stats } from 'node:fs';
import { describeError, OperatorError } from '../lib/index.js';
import {
  type CertificateFacts,
  certificateFacts,
  certificatesOf,
  isSignedBy,
  type LinkSecurity,
  refusalOfTime,
  refusalOfUse,
} from '../transport/index.js';
import type { Configuration, SecuritySettings } from './configuration.js';
import type { Key } from './keys.js';
import { EXPIRY_WARNING_DAYS, TLS_FILE_BYTES_MAX } from './limits.js';
import { quote } from './problem.js';

/** What of a configuration decides how the links are protected. */
export type SecurityPlace = Pick<Configuration, 'listen' | 'peer' | 'security'>;

/** `text` is `found ..., expected ...; advice`. */
export interface SecurityFinding {
  readonly level: 'error' | 'warning';
  readonly key: Key;
  readonly text: string;
}

export interface LoadedSecurity {
  readonly links: LinkSecurity;
  /** Ours; undefined without TLS. */
  readonly certificate: CertificateFacts | undefined;
  readonly warnings: readonly string[];
}

/** For an agent that starts. Throws OperatorError with all that is wrong. */
export function loadLinkSecurity(place: SecurityPlace, nowMs = Date.now()): LoadedSecurity {
  const { links, certificate, findings } = examineLinkSecurity(place, nowMs);
  const lines = (level: SecurityFinding['level']): string[] =>
    findings.filter((one) => one.level === level).map(({ key, text }) => `${key}: ${text}`);
  const errors = lines('error');
  if (errors.length > 0) throw new OperatorError('COLO_E_TLS', errors.join('\n'));
  return { links, certificate, warnings: lines('warning') };
}

/** What is there, and all that is wrong with it; with an error `links` are not to be used. */
export function examineLinkSecurity(
  place: SecurityPlace,
  nowMs: number,
): {
  readonly links: LinkSecurity;
  readonly certificate: CertificateFacts | undefined;
  readonly findings: readonly SecurityFinding[];
} {
  const { security } = place;
  const plain = { links: { kind: 'plain' } as const, certificate: undefined };
  if (security.transport === 'plain-trusted') {
    const expected = 'expected a link that nobody else can reach';
    const text = `found no protection, ${expected}; whoever is on it can read and be the guest`;
    return { ...plain, findings: [warning('transport-security', text)] };
  }
  const examination = new Examination(security, nowMs);
  if (examination.isWithoutFiles) return { ...plain, findings: withoutFiles(place) };
  return examination.run();
}

/** Whether the two hosts are one, on which no stranger can listen in. */
function isOnLoopback({ listen, peer }: SecurityPlace): boolean {
  const isLoopback = (host: string): boolean => /^(?:127\.[\d.]+|::1|localhost)$/.test(host);
  return isLoopback(listen.host) && (peer === undefined || isLoopback(peer.host));
}

/** Nobody gets links without protection by forgetting something. */
function withoutFiles(place: SecurityPlace): SecurityFinding[] {
  if (isOnLoopback(place)) return [];
  const { ca, certificate, key } = place.security;
  const found = `found none of ${ca}, ${certificate} and ${key}`;
  const advice = 'make them with colo pki, or say transport-security = plain-trusted';
  const text = `${found}, expected all of them for TLS; ${advice}`;
  return [{ level: 'error', key: 'tls-certificate', text }];
}

type FileKey = 'tls-ca' | 'tls-certificate' | 'tls-key';

/** One look at the three files. */
class Examination {
  readonly #settings: SecuritySettings;
  readonly #nowMs: number;
  readonly #findings: SecurityFinding[] = [];
  readonly #texts: Readonly<Record<FileKey, string | undefined>>;
  readonly #missing: ReadonlySet<FileKey>;

  constructor(settings: SecuritySettings, nowMs: number) {
    this.#settings = settings;
    this.#nowMs = nowMs;
    const missing = new Set<FileKey>();
    const read = (key: FileKey): string | undefined => {
      const file = this.#read(key);
      if (file === 'missing') missing.add(key);
      return file === 'missing' ? undefined : file;
    };
    this.#texts = {
      'tls-ca': read('tls-ca'),
      'tls-certificate': read('tls-certificate'),
      'tls-key': read('tls-key'),
    };
    this.#missing = missing;
  }

  get isWithoutFiles(): boolean {
    return this.#missing.size === 3;
  }

  run(): ReturnType<typeof examineLinkSecurity> {
    for (const key of this.#missing) {
      this.#refuse(key, 'that is not there', 'a PEM file', 'copy it there, or make it by colo pki');
    }
    const cas = this.#certificates('tls-ca');
    const [certificate] = this.#certificates('tls-certificate');
    const key = this.#privateKey();
    if (certificate !== undefined) this.#check(certificate, cas, key);
    const texts = this.#texts;
    return {
      links: {
        kind: 'tls',
        ca: texts['tls-ca'] ?? '',
        certificate: texts['tls-certificate'] ?? '',
        key: texts['tls-key'] ?? '',
        peerNames: this.#settings.peerNames,
      },
      certificate:
        certificate === undefined ? undefined : certificateFacts(certificate, this.#nowMs),
      findings: this.#findings,
    };
  }

  #check(
    certificate: X509Certificate,
    cas: readonly X509Certificate[],
    key: KeyObject | undefined,
  ): void {
    const nowMs = this.#nowMs;
    if (key !== undefined && !certificate.checkPrivateKey(key)) {
      const { certificate: path } = this.#settings;
      this.#refuse('tls-key', `that is not for ${quote(path)}`, 'its key', 'copy both anew');
    }
    const issuers = cas.filter((ca) => isSignedBy(certificate, ca));
    if (issuers.length === 0 && cas.length > 0) {
      const found = `that no CA in ${quote(this.#settings.ca)} has signed`;
      this.#refuse('tls-certificate', found, 'one of that CA', 'issue it there');
    }
    const use = refusalOfUse(certificate);
    if (use !== undefined) {
      const expected = "a host's, for clientAuth and serverAuth";
      this.#refuse('tls-certificate', `(${use})`, expected, 'issue another');
    }
    this.#checkTime('tls-certificate', certificate);
    // An old CA beside the one that counts does no harm.
    const counting = issuers.filter((ca) => refusalOfTime('', ca, nowMs) === undefined);
    for (const ca of counting.length > 0 ? counting : issuers) this.#checkTime('tls-ca', ca);
  }

  #checkTime(key: FileKey, certificate: X509Certificate): void {
    const { daysLeft, validFrom, validUntil, state } = certificateFacts(certificate, this.#nowMs);
    const day = (time: string): string => time.slice(0, 10);
    if (state === 'not yet valid') {
      const found = `that is not valid before ${validFrom}`;
      this.#refuse(key, found, 'one that is', "look at this host's clock");
    } else if (state === 'expired') {
      const found = `that has expired on ${day(validUntil)}`;
      this.#refuse(key, found, 'a valid one', RENEW[key] ?? '');
    } else if (daysLeft < EXPIRY_WARNING_DAYS) {
      const found = `found one that expires on ${day(validUntil)}, in ${daysLeft} days`;
      const expected = `expected ${EXPIRY_WARNING_DAYS} at least`;
      this.#findings.push(warning(key, `${found}, ${expected}; ${RENEW[key]}`));
    }
  }

  #certificates(key: 'tls-ca' | 'tls-certificate'): X509Certificate[] {
    const text = this.#texts[key];
    if (text === undefined) return [];
    const pems = certificatesOf(text);
    if (pems.length === 0) {
      this.#refuse(key, 'without a certificate', 'PEM text with one', 'correct the path');
      return [];
    }
    try {
      const found = pems.map((pem) => new X509Certificate(pem));
      if (key === 'tls-certificate' || found.every(({ ca }) => ca)) return found;
      this.#refuse(key, 'with a certificate that is no CA', 'only CAs', 'correct the path');
    } catch (error) {
      this.#refuse(key, `(${describeError(error)})`, 'certificates', 'copy it anew');
    }
    return [];
  }

  #privateKey(): KeyObject | undefined {
    const text = this.#texts['tls-key'];
    if (text === undefined) return undefined;
    if (text.includes('ENCRYPTED')) {
      const advice = 'nobody can type it when an agent starts';
      this.#refuse('tls-key', 'with a passphrase', 'one without', advice);
      return undefined;
    }
    try {
      return createPrivateKey(text);
    } catch {
      // What it complains of may quote the key.
      this.#refuse('tls-key', 'without a key', 'PEM text with one', 'correct the path');
      return undefined;
    }
  }

  #read(key: FileKey): string | 'missing' | undefined {
    const path = this.#path(key);
    let file: number;
    try {
      // Not waiting for whoever would write to a pipe.
      file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === 'ENOENT' || code === 'ENOTDIR') return 'missing';
      this.#refuse(key, `that can not be read (${code})`, 'a readable file', 'correct its mode');
      return undefined;
    }
    try {
      const wrong = wrongWithFile(key, fstatSync(file));
      if (wrong !== undefined) {
        this.#refuse(key, ...wrong);
        return undefined;
      }
      const bytes = Buffer.alloc(TLS_FILE_BYTES_MAX);
      return bytes.toString('latin1', 0, readSync(file, bytes, 0, bytes.length, 0));
    } catch (error) {
      this.#refuse(key, `(${describeError(error)})`, 'a readable file', 'correct the path');
      return undefined;
    } finally {
      closeSync(file);
    }
  }

  #path(key: FileKey): string {
    const { ca, certificate, key: own } = this.#settings;
    return { 'tls-ca': ca, 'tls-certificate': certificate, 'tls-key': own }[key];
  }

  #refuse(key: FileKey, what: string, expected: string, advice: string): void {
    const text = `found ${quote(this.#path(key))} ${what}, expected ${expected}; ${advice}`;
    this.#findings.push({ level: 'error', key, text });
  }
}

const RENEW: Readonly<Partial<Record<Key, string>>> = {
  'tls-ca': 'make another CA, and issue both certificates there',
  'tls-certificate': 'renew it with colo pki issue --renew where its CA is',
};

/** What, expected, advice. */
function wrongWithFile(key: FileKey, stats: Stats): [string, string, string] | undefined {
  if (!stats.isFile()) return ['that is no file', 'a PEM file', 'correct the path'];
  if (stats.size > TLS_FILE_BYTES_MAX) {
    const expected = `at most ${TLS_FILE_BYTES_MAX}`;
    return [`of ${stats.size} bytes`, expected, 'correct the path'];
  }
  const mode = (stats.mode & 0o777).toString(8).padStart(4, '0');
  if (key === 'tls-key' && (stats.mode & 0o077) !== 0) {
    return [`with mode ${mode}`, '0600: nobody else may read a key', 'run chmod 600 on it'];
  }
  if ((stats.mode & 0o022) !== 0) {
    const expected = '0644 at most: nobody else may change it';
    return [`with mode ${mode}`, expected, 'run chmod 644 on it'];
  }
  const own = process.getuid?.() ?? 0;
  if (stats.uid !== own && stats.uid !== 0) {
    return [`of user ${stats.uid}`, `one of root or of user ${own}`, 'run chown root on it'];
  }
  return undefined;
}

function warning(key: Key, text: string): SecurityFinding {
  return { level: 'warning', key, text };
}
