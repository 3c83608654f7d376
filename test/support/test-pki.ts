/**
 * Certificates for tests, good ones and each kind of bad one, by Debian's openssl. `openssl ca`,
 * because it alone can say from when to when.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface TestCertificate {
  readonly certificate: string;
  readonly key: string;
}

export interface TestLeaf {
  /** Such as "DNS:hosta,IP:10.0.0.1". */
  readonly names?: string;
  /** Of extendedKeyUsage; empty: leave it out. */
  readonly uses?: string;
  readonly isCa?: boolean;
  readonly from?: Date;
  readonly until?: Date;
}

const DAY_MS = 24 * 3600 * 1000;

/** A CA and what it signs, in a folder under /tmp until `remove`. */
export class TestPki {
  readonly #folder = mkdtempSync(join(tmpdir(), 'colo-test-pki-'));
  readonly ca: TestCertificate;
  #count = 0;

  constructor(name = 'Test CA') {
    this.ca = this.#selfSigned('ca', name, ['basicConstraints=critical,CA:TRUE']);
    mkdirSync(join(this.#folder, 'new'));
    writeFileSync(join(this.#folder, 'index'), '');
    // Two CAs of one name must not give two certificates of one number.
    writeFileSync(join(this.#folder, 'serial'), `${(Date.now() % 0xffffff) + 0x1000000}`);
  }

  /** Defaults: for "localhost" and 127.0.0.1, both uses, from yesterday until tomorrow. */
  issue(leaf: TestLeaf = {}): TestCertificate {
    this.#count += 1;
    const name = `leaf${this.#count}`;
    const { names = 'DNS:localhost,IP:127.0.0.1', uses = 'clientAuth,serverAuth' } = leaf;
    const from = leaf.from ?? new Date(Date.now() - DAY_MS);
    const until = leaf.until ?? new Date(Date.now() + DAY_MS);
    const config = [
      ...['[ca]', 'default_ca=this', '[this]'],
      ...['dir=.', 'database=index', 'serial=serial', 'new_certs_dir=new', 'policy=any'],
      ...['default_md=sha256', 'unique_subject=no', 'x509_extensions=leaf'],
      ...['[any]', 'commonName=supplied', '[req]', 'distinguished_name=dn', '[dn]', '[leaf]'],
      `basicConstraints=critical,CA:${leaf.isCa === true ? 'TRUE' : 'FALSE'}`,
      ...(names === '' ? [] : [`subjectAltName=${names}`]),
      ...(uses === '' ? [] : [`extendedKeyUsage=${uses}`]),
    ];
    writeFileSync(join(this.#folder, 'config'), `${config.join('\n')}\n`);
    this.#key(name);
    const subject = ['-key', `${name}.key`, '-subj', `/CN=${name}`, '-config', 'config'];
    this.#openssl('req', '-new', ...subject, '-out', `${name}.csr`);
    const times = ['-startdate', asn1Time(from), '-enddate', asn1Time(until)];
    const signer = ['-cert', 'ca.crt', '-keyfile', 'ca.key', '-config', 'config'];
    const files = ['-in', `${name}.csr`, '-out', `${name}.crt`];
    this.#openssl('ca', '-batch', '-notext', ...signer, ...times, ...files);
    return this.#read(name);
  }

  /** By nobody but itself, otherwise as a host's should be. */
  selfSigned(): TestCertificate {
    return this.#selfSigned('self', 'localhost', [
      'basicConstraints=critical,CA:FALSE',
      'subjectAltName=DNS:localhost,IP:127.0.0.1',
      'extendedKeyUsage=clientAuth,serverAuth',
    ]);
  }

  /** For programs that want files. */
  files(name: string, { certificate, key }: TestCertificate): { cert: string; key: string } {
    const paths = {
      cert: join(this.#folder, `${name}.pem`),
      key: join(this.#folder, `${name}.key.pem`),
    };
    writeFileSync(paths.cert, certificate);
    writeFileSync(paths.key, key, { mode: 0o600 });
    return paths;
  }

  remove(): void {
    rmSync(this.#folder, { recursive: true, force: true });
  }

  #selfSigned(name: string, subject: string, extensions: readonly string[]): TestCertificate {
    this.#key(name);
    const config = ['[req]', 'distinguished_name=dn', '[dn]'];
    writeFileSync(join(this.#folder, 'self.config'), `${config.join('\n')}\n`);
    const more = extensions.flatMap((extension) => ['-addext', extension]);
    const as = ['-subj', `/CN=${subject}`, '-days', '30', '-config', 'self.config', ...more];
    this.#openssl('req', '-x509', '-new', '-key', `${name}.key`, ...as, '-out', `${name}.crt`);
    return this.#read(name);
  }

  #key(name: string): void {
    const curve = ['-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256'];
    this.#openssl('genpkey', ...curve, '-out', `${name}.key`);
  }

  #read(name: string): TestCertificate {
    const text = (end: string): string => readFileSync(join(this.#folder, name + end), 'utf8');
    return { certificate: text('.crt'), key: text('.key') };
  }

  #openssl(...args: readonly string[]): void {
    execFileSync('openssl', args, { cwd: this.#folder, stdio: 'pipe' });
  }
}

/** YYYYMMDDHHMMSSZ. */
function asn1Time(date: Date): string {
  return `${date.toISOString().replace(/[-:T]/g, '').slice(0, 14)}Z`;
}
