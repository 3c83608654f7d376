/** What a certificate says, and whether it is one that a host of this pair may show. */
import { X509Certificate } from 'node:crypto';
import { isIP } from 'node:net';

/** RFC 5280, 4.2.1.12: for the connecting and for the listening end. */
const CLIENT_AUTH = '1.3.6.1.5.5.7.3.2';
const SERVER_AUTH = '1.3.6.1.5.5.7.3.1';

const PEM_CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g;

/** Whose certificates count, and by which names; see TlsSecurity. */
export interface PeerRule {
  /** PEM, one or several. */
  readonly ca: string;
  /** Host names and addresses, or "*". */
  readonly peerNames: readonly string[];
}

/** Each certificate of a PEM text, as it stands; what is between them is left out. */
export function certificatesOf(pem: string): string[] {
  return pem.match(PEM_CERTIFICATE) ?? [];
}

/**
 * Why this certificate does not make its owner our peer, or undefined. Its direct issuer must be in
 * `ca`. `atMs`: when, by the host's clock.
 */
export function refusalOfCertificate(
  certificate: X509Certificate,
  rule: PeerRule,
  atMs: number = Date.now(),
): string | undefined {
  return (
    refusalOfIssuer(certificate, rule.ca, atMs) ??
    refusalOfTime('its certificate', certificate, atMs) ??
    refusalOfUse(certificate) ??
    refusalOfName(certificate, rule.peerNames)
  );
}

/** When a certificate begins and ends to be valid, in milliseconds since 1970. */
export function validityOf(certificate: X509Certificate): { fromMs: number; untilMs: number } {
  return {
    fromMs: Date.parse(certificate.validFrom),
    untilMs: Date.parse(certificate.validTo),
  };
}

/** The names and addresses that a certificate is for, as they would stand in `tls-peer-names`. */
export function namesOf(certificate: X509Certificate): string[] {
  // "DNS:a, IP Address:10.0.0.1"; what needs quotes is not a name that we look for.
  const entries = certificate.subjectAltName?.split(', ') ?? [];
  return entries
    .map((entry) => /^(?:DNS|IP Address):([^"]+)$/.exec(entry)?.[1])
    .filter((name) => name !== undefined);
}

/** Whether it was signed by this CA, as far as mathematics can tell. */
export function isSignedBy(certificate: X509Certificate, ca: X509Certificate): boolean {
  return ca.ca && certificate.checkIssued(ca) && certificate.verify(ca.publicKey);
}

function refusalOfIssuer(
  certificate: X509Certificate,
  ca: string,
  atMs: number,
): string | undefined {
  const issuers = certificatesOf(ca)
    .map((pem) => new X509Certificate(pem))
    .filter((candidate) => isSignedBy(certificate, candidate));
  if (issuers.length === 0) return 'its certificate is not by our CA';
  const refusals = issuers.map((issuer) => refusalOfTime("its CA's certificate", issuer, atMs));
  return refusals.includes(undefined) ? undefined : refusals[0];
}

/** Why `certificate`, called `what`, does not count now. NaN, of a date nobody can read, neither. */
export function refusalOfTime(
  what: string,
  certificate: X509Certificate,
  atMs: number,
): string | undefined {
  const { fromMs, untilMs } = validityOf(certificate);
  if (!(atMs >= fromMs)) return `${what} is not valid before ${certificate.validFrom}`;
  if (!(atMs <= untilMs)) return `${what} has expired on ${certificate.validTo}`;
  return undefined;
}

/** Roles change, so a host's certificate must do for both ends; and a CA's key stays at home. */
export function refusalOfUse(certificate: X509Certificate): string | undefined {
  if (certificate.ca) return "it showed a CA's certificate, expected a host's";
  const uses: readonly string[] = certificate.keyUsage ?? [];
  if (uses.includes(CLIENT_AUTH) && uses.includes(SERVER_AUTH)) return undefined;
  return 'its certificate is for another use, expected clientAuth and serverAuth';
}

function refusalOfName(certificate: X509Certificate, names: readonly string[]): string | undefined {
  if (names.some((name) => name === '*' || hasName(certificate, name))) return undefined;
  const found = namesOf(certificate).join(', ') || 'no name';
  return `its certificate is for ${found}, expected ${names.join(' or ') || 'nobody'}`;
}

/** By subjectAltName alone, and without wildcards: a host is one host. */
export function hasName(certificate: X509Certificate, name: string): boolean {
  if (isIP(name) !== 0) return certificate.checkIP(name) !== undefined;
  const found = certificate.checkHost(name, { subject: 'never', wildcards: false });
  return found !== undefined;
}

const DAY_MS = 24 * 3600 * 1000;

/** What an operator asks of a certificate. */
export interface CertificateFacts {
  /** Such as "CN=hosta". */
  readonly subject: string;
  readonly issuer: string;
  /** Of subjectAltName. */
  readonly names: readonly string[];
  readonly isCa: boolean;
  /** ISO 8601, UTC. */
  readonly validFrom: string;
  readonly validUntil: string;
  /** Whole days until the end, rounded down; negative once it is over. */
  readonly daysLeft: number;
  readonly state: 'valid' | 'expired' | 'not yet valid';
  /** Of the whole certificate, SHA-256, as openssl prints it. */
  readonly fingerprint: string;
}

/** `atMs`: when, by the host's clock. */
export function certificateFacts(certificate: X509Certificate, atMs: number): CertificateFacts {
  const { fromMs, untilMs } = validityOf(certificate);
  return {
    subject: certificate.subject.replaceAll('\n', ', '),
    issuer: certificate.issuer.replaceAll('\n', ', '),
    names: namesOf(certificate),
    isCa: certificate.ca,
    validFrom: new Date(fromMs).toISOString(),
    validUntil: new Date(untilMs).toISOString(),
    daysLeft: Math.floor((untilMs - atMs) / DAY_MS),
    state: atMs > untilMs ? 'expired' : atMs < fromMs ? 'not yet valid' : 'valid',
    fingerprint: certificate.fingerprint256,
  };
}
