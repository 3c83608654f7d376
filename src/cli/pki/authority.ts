/**
 * `colo pki init` and `colo pki issue`: a small CA in a folder, for the hosts of pairs.
 *
 *   ca.crt  ca.key       whose signature counts; the key stays on one host
 *   NAME.crt  NAME.key   what one host shows
 *
 * Everything is made in a folder of its own inside and put into place by a rename, key first, so
 * that an interrupt or a power cut leaves no half of a file; an interrupt removes what it has made.
 * Nothing is ever overwritten, but a certificate by its renewal, for the same key.
 */
import { generateKeyPairSync, randomBytes, X509Certificate } from 'node:crypto';
import { lstatSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, open, readFile, rm, unlink, writeFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { join } from 'node:path';
import { ColoError } from '../../lib/index.js';
import { lockFile, writeDurably } from '../../linux/index.js';
import { namesOf, validityOf } from '../../transport/index.js';
import { Interrupted } from '../exit-codes.js';
import { CA_DAYS_DEFAULT, HOST_DAYS_DEFAULT } from '../limits.js';
import { readCertificate } from './certificate-file.js';
import { runOpenssl } from './openssl.js';

export interface InitWish {
  readonly dir: string;
  /** Undefined: CA_DAYS_DEFAULT. */
  readonly days: number | undefined;
  readonly json: boolean;
}

export interface IssueWish {
  readonly dir: string;
  /** The host's name; of the files, too. */
  readonly name: string;
  /** Other names and addresses of the host. */
  readonly others: readonly string[];
  /** Undefined: HOST_DAYS_DEFAULT, or until the CA's own end. */
  readonly days: number | undefined;
  /** A new certificate for the key that the old one is for. */
  readonly renew: boolean;
  readonly json: boolean;
}

/** What was made: absolute paths. */
export interface Made {
  readonly ca: string;
  readonly certificate: string;
  /** Undefined after a renewal: the key is the old one, wherever it is. */
  readonly key: string | undefined;
  readonly names: readonly string[];
  /** ISO 8601. */
  readonly validUntil: string;
}

const DAY_MS = 24 * 3600 * 1000;
const CA_EXTENSIONS = [
  'basicConstraints=critical,CA:TRUE,pathlen:0',
  'keyUsage=critical,keyCertSign,cRLSign',
  'subjectKeyIdentifier=hash',
];
const HOST_EXTENSIONS = [
  'basicConstraints=critical,CA:FALSE',
  'keyUsage=critical,digitalSignature',
  'extendedKeyUsage=clientAuth,serverAuth',
  'subjectKeyIdentifier=hash',
  'authorityKeyIdentifier=keyid',
];

/** Makes a CA in a folder that has none. Throws ColoError. */
export async function initAuthority(wish: InitWish, signal?: AbortSignal): Promise<Made> {
  const { dir } = wish;
  return await inFolder(dir, signal, async (workshop) => {
    const place = placesOf(dir, 'ca');
    mustBeFree(place);
    const days = wish.days ?? CA_DAYS_DEFAULT;
    const key = makeKey();
    const keyFile = await put(workshop, 'key', key.secret);
    const extensions = await put(workshop, 'extensions', CA_EXTENSIONS.join('\n'));
    const out = join(workshop, 'crt');
    // Two CAs of one name would be hard to tell apart for whoever has both.
    const subject = ['-subj', `/CN=Colo CA ${randomBytes(4).toString('hex')}`];
    const args = ['-new', '-key', keyFile, ...subject, ...commonArguments(days, extensions)];
    await runOpenssl(['x509', ...args, '-out', out], signal);
    return await settle(
      place,
      { key: key.secret, certificate: out, ca: place.certificate },
      signal,
    );
  });
}

/** Makes a host's key and certificate, or renews the certificate. Throws ColoError. */
export async function issueCertificate(wish: IssueWish, signal?: AbortSignal): Promise<Made> {
  const { dir, name, renew } = wish;
  if (name === 'ca')
    throw failed('found the name ca, expected another; that is the name of the files of the CA');
  return await inFolder(dir, signal, async (workshop) => {
    const ca = placesOf(dir, 'ca');
    const caCertificate = await readCertificate(ca.certificate, 'colo pki init makes one');
    if (!exists(ca.key)) {
      const expected = 'expected it where certificates are issued; go to the host of the CA';
      throw failed(`found no ${ca.key}, ${expected}`);
    }
    const place = placesOf(dir, name);
    const old = renew ? await readCertificate(place.certificate, 'leave out --renew') : undefined;
    if (old === undefined) mustBeFree(place);
    const names = namesToSign(wish, old);
    const key = old === undefined ? makeKey() : undefined;
    const publicKey = key?.open ?? publicKeyOf(old as X509Certificate);
    const days = daysWithin(wish.days, caCertificate);
    const publicFile = await put(workshop, 'pub', publicKey);
    const alternatives = names.map((one) => `${isIP(one) === 0 ? 'DNS' : 'IP'}:${one}`);
    const all = [...HOST_EXTENSIONS, `subjectAltName=${alternatives.join(',')}`];
    const extensions = await put(workshop, 'extensions', all.join('\n'));
    const out = join(workshop, 'crt');
    const signer = ['-CA', ca.certificate, '-CAkey', ca.key];
    const args = ['-new', '-force_pubkey', publicFile, '-subj', `/CN=${name}`, ...signer];
    await runOpenssl(['x509', ...args, ...commonArguments(days, extensions), '-out', out], signal);
    return await settle(place, { key: key?.secret, certificate: out, ca: ca.certificate }, signal);
  });
}

interface Places {
  readonly certificate: string;
  readonly key: string;
}

function placesOf(dir: string, name: string): Places {
  return { certificate: join(dir, `${name}.crt`), key: join(dir, `${name}.key`) };
}

/** Calls `work` with an empty folder inside `dir`, which nobody else writes to meanwhile. */
async function inFolder<T>(
  dir: string,
  signal: AbortSignal | undefined,
  work: (workshop: string) => Promise<T>,
): Promise<T> {
  try {
    await makeFolder(dir);
    const lock = await open(join(dir, '.lock'), 'a', 0o600);
    try {
      if (!lockFile(lock.fd, 'exclusive')) {
        throw failed(`found another colo pki at work in ${dir}, expected none; wait for it`);
      }
      const workshop = await mkdtemp(join(dir, '.new-'));
      try {
        if (signal?.aborted === true) throw new Interrupted();
        return await work(workshop);
      } finally {
        await rm(workshop, { recursive: true, force: true });
      }
    } finally {
      await lock.close();
    }
  } catch (error) {
    if (error instanceof ColoError) throw error;
    const code = (error as NodeJS.ErrnoException).code;
    if (code === undefined) throw error;
    const advice = code === 'EACCES' ? '; run colo as root' : '';
    throw new ColoError('COLO_E_PKI', `${dir} can not be written to${advice}`, { cause: error });
  }
}

async function makeFolder(dir: string): Promise<void> {
  if ((await mkdir(dir, { recursive: true, mode: 0o700 })) !== undefined) await chmod(dir, 0o700);
  const { mode, uid } = lstatSync(dir);
  const own = process.getuid?.();
  if (uid !== own) throw failed(`found ${dir} owned by user ${uid}, expected ${own}`);
  if ((mode & 0o077) !== 0) {
    const found = `found ${dir} with mode ${(mode & 0o777).toString(8).padStart(4, '0')}`;
    throw failed(`${found}, expected 0700 where keys are; chmod 700 ${dir}, or name another --dir`);
  }
}

function mustBeFree(place: Places): void {
  for (const path of [place.certificate, place.key]) {
    if (!exists(path)) continue;
    const advice = path.endsWith('ca.crt') || path.endsWith('ca.key') ? '' : ', or --renew';
    throw failed(`found ${path}, expected none: nothing is overwritten; move it away${advice}`);
  }
}

function exists(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
}

/** ECDSA on P-256: what TLS 1.3, Node and each OpenSSL in use know. */
function makeKey(): { readonly secret: string; readonly open: string } {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return {
    secret: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
    open: publicKey.export({ type: 'spki', format: 'pem' }).toString(),
  };
}

function publicKeyOf(certificate: X509Certificate): string {
  return certificate.publicKey.export({ type: 'spki', format: 'pem' }).toString();
}

function namesToSign(wish: IssueWish, old: X509Certificate | undefined): string[] {
  const fresh = [wish.name, ...wish.others];
  const names = wish.others.length === 0 && old !== undefined ? namesOf(old) : fresh;
  return [...new Set(names)];
}

/** No certificate outlives its CA's. */
function daysWithin(wanted: number | undefined, ca: X509Certificate): number {
  const left = Math.floor((validityOf(ca).untilMs - Date.now()) / DAY_MS);
  if (left < 1) throw failed(`found a CA that ends on ${ca.validTo}, expected one for longer`);
  if (wanted === undefined) return Math.min(HOST_DAYS_DEFAULT, left);
  if (wanted > left) {
    throw failed(`found ${wanted} days, expected at most the ${left} that the CA has left`);
  }
  return wanted;
}

function commonArguments(days: number, extensions: string): string[] {
  // 159 bits, positive: RFC 5280 wants 20 bytes at most.
  const serial = randomBytes(20);
  serial.writeUInt8(serial.readUInt8(0) & 0x7f, 0);
  const number = ['-set_serial', `0x${serial.toString('hex')}`];
  return ['-days', String(days), '-sha256', ...number, '-extfile', extensions];
}

async function put(workshop: string, name: string, text: string): Promise<string> {
  const path = join(workshop, name);
  await writeFile(path, `${text}\n`, { mode: 0o600 });
  return path;
}

/** What was made goes where it belongs; from here on an interrupt waits for the end. */
async function settle(
  place: Places,
  made: { key: string | undefined; certificate: string; ca: string },
  signal: AbortSignal | undefined,
): Promise<Made> {
  const text = await readFile(made.certificate, 'utf8');
  const certificate = new X509Certificate(text);
  if (signal?.aborted === true) throw new Interrupted();
  if (made.key !== undefined) await writeDurably(place.key, made.key);
  try {
    await writeDurably(place.certificate, text);
  } catch (error) {
    if (made.key !== undefined) await unlink(place.key);
    throw error;
  }
  return {
    ca: made.ca,
    certificate: place.certificate,
    key: made.key === undefined ? undefined : place.key,
    names: namesOf(certificate),
    validUntil: new Date(validityOf(certificate).untilMs).toISOString(),
  };
}

function failed(message: string): ColoError {
  return new ColoError('COLO_E_PKI', message);
}
