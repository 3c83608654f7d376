/**
 * What protects the links of this node, for as long as the node lives. Certificates are renewed
 * while it does: files that have changed count for connections from then on, unless something is
 * wrong with them. An end of a certificate that comes near is told in the log once a day, and in
 * the status.
 */
import {
  type CertificateStatus,
  EXPIRY_WARNING_DAYS,
  loadLinkSecurity,
  type SecurityPlace,
  type SecurityStatus,
} from '../config/index.js';
import { describeError, type Logger } from '../lib/index.js';
import {
  type CertificateFacts,
  certificateFacts,
  type LinkSecurity,
  type Session,
} from '../transport/index.js';
import { CERTIFICATE_LOOK_MS, EXPIRY_LOOK_MS } from './limits.js';

const DAY_MS = 24 * 3600 * 1000;

export class NodeSecurity {
  readonly #place: SecurityPlace;
  readonly #log: Logger;
  readonly #now: () => number;
  readonly #timers: readonly NodeJS.Timeout[];
  #links: LinkSecurity;
  #own: CertificateFacts | undefined;
  /** What was wrong with the files when they were looked at last. */
  #problem = '';
  /** Of the last peer that a session was made with. */
  #peer: CertificateFacts | undefined;

  /** Throws OperatorError when the files are not as they must be. `now`: ms since 1970. */
  constructor(place: SecurityPlace, log: Logger, now: () => number = Date.now) {
    const { links, certificate, warnings } = loadLinkSecurity(place, now());
    this.#place = place;
    this.#links = links;
    this.#own = certificate;
    this.#log = log;
    this.#now = now;
    for (const warning of warnings) log.warn(warning);
    this.#timers =
      links.kind === 'tls'
        ? [
            setInterval(() => this.lookAtEnds(), EXPIRY_LOOK_MS).unref(),
            setInterval(() => this.lookAtFiles(), CERTIFICATE_LOOK_MS).unref(),
          ]
        : [];
  }

  /** For every link and listener of this node; ask again for the next one. */
  get links(): LinkSecurity {
    return this.#links;
  }

  get status(): SecurityStatus {
    return {
      transport: this.#links.kind,
      certificate: this.#statusOf(this.#own),
      peerCertificate: this.#statusOf(this.#peer),
    };
  }

  /** A session was made. */
  met({ peerCertificate }: Pick<Session, 'peerCertificate'>): void {
    if (peerCertificate === undefined) return;
    const facts = certificateFacts(peerCertificate, this.#now());
    const isNew = facts.fingerprint !== this.#peer?.fingerprint;
    this.#peer = facts;
    if (isNew) this.#warn("The peer's certificate expires soon", facts);
  }

  /** Takes files that have changed, if nothing is wrong with them; what is, is told once. */
  lookAtFiles(): void {
    try {
      const { links, certificate } = loadLinkSecurity(this.#place, this.#now());
      this.#problem = '';
      if (links.kind !== 'tls' || JSON.stringify(links) === JSON.stringify(this.#links)) return;
      this.#links = links;
      this.#own = certificate;
      this.#log.info('New connections use the certificates that are there now', {
        names: certificate?.names.join(' ') ?? '',
        validUntil: certificate?.validUntil ?? '',
      });
    } catch (error) {
      const problem = describeError(error);
      if (problem !== this.#problem) {
        this.#log.warn('The certificates that are there now are not used', { reason: problem });
      }
      this.#problem = problem;
    }
  }

  lookAtEnds(): void {
    this.#warn('The certificate of this host expires soon', this.#own);
    this.#warn("The peer's certificate expires soon", this.#peer);
  }

  stop(): void {
    for (const timer of this.#timers) clearInterval(timer);
  }

  #warn(message: string, certificate: CertificateFacts | undefined): void {
    const status = this.#statusOf(certificate);
    if (status === null || status.daysLeft >= EXPIRY_WARNING_DAYS) return;
    const { validUntil, daysLeft } = status;
    this.#log.warn(message, { validUntil, daysLeft, advice: 'colo pki issue --renew' });
  }

  /** As of now: the agent may run for longer than a certificate. */
  #statusOf(certificate: CertificateFacts | undefined): CertificateStatus | null {
    if (certificate === undefined) return null;
    const { names, validUntil } = certificate;
    const daysLeft = Math.floor((Date.parse(validUntil) - this.#now()) / DAY_MS);
    return { names, validUntil, daysLeft };
  }
}
