/** `colo pki show`, and certificates in files. */
import { X509Certificate } from 'node:crypto';
import { join } from 'node:path';
import { ColoError, describeError } from '../../lib/index.js';
import { type CertificateFacts, certificateFacts, certificatesOf } from '../../transport/index.js';
import { readFileBounded } from '../read-file.js';

export interface ShowWish {
  /** None: all certificates of `dir`. */
  readonly files: readonly string[];
  readonly dir: string;
  readonly json: boolean;
}

/** One certificate of a file, which may hold several. */
export interface ShownCertificate extends CertificateFacts {
  readonly file: string;
}

/** Of all files, in their order. Throws ColoError. `list`: the names in a folder. */
export async function showCertificates(
  wish: ShowWish,
  list: (folder: string) => Promise<string[]>,
): Promise<ShownCertificate[]> {
  const { dir } = wish;
  const own = (await list(dir)).filter((name) => name.endsWith('.crt')).sort();
  const files = wish.files.length > 0 ? wish.files : own.map((name) => join(dir, name));
  if (files.length === 0) {
    const message = `found no certificates in ${dir}, expected *.crt; name a file, or --dir`;
    throw new ColoError('COLO_E_PKI', message);
  }
  const atMs = Date.now();
  const shown: ShownCertificate[] = [];
  for (const file of files) {
    for (const pem of certificatesOf(readText(file))) {
      shown.push({ file, ...certificateFacts(parse(file, pem), atMs) });
    }
  }
  return shown;
}

/** The first of the file; `advice` is for one that is not there. Throws ColoError. */
export async function readCertificate(path: string, advice: string): Promise<X509Certificate> {
  const [pem] = certificatesOf(readText(path, advice));
  return parse(path, pem as string);
}

/** With a certificate in it, at least. */
function readText(path: string, advice = 'name another'): string {
  let bytes: Uint8Array | undefined;
  try {
    bytes = readFileBounded(path);
  } catch (error) {
    throw new ColoError('COLO_E_PKI', `${path} can not be read: ${describeError(error)}`);
  }
  const found = bytes === undefined ? `no file ${path}` : `no certificate in ${path}`;
  const text = Buffer.from(bytes ?? []).toString('latin1');
  if (certificatesOf(text).length > 0) return text;
  throw new ColoError('COLO_E_PKI', `found ${found}, expected a certificate (PEM); ${advice}`);
}

function parse(path: string, pem: string): X509Certificate {
  try {
    return new X509Certificate(pem);
  } catch (error) {
    const message = `${path} has a certificate that can not be read: ${describeError(error)}`;
    throw new ColoError('COLO_E_PKI', message);
  }
}
