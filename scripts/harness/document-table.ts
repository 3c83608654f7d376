/** Tables of measured figures inside a Markdown document, between two markers. Pure. */

export interface TableMarkers {
  readonly begin: string;
  readonly end: string;
}

/** One row of a table as it could be. */
export interface TableRow {
  /** The cells by which a row is known again, from its first on. */
  readonly key: readonly string[];
  /** The rest; undefined: what the document has, if it has one. */
  readonly values: readonly string[] | undefined;
}

/** Of what writes them: a command, as in `scripts/fault-matrix --mode colo`. */
export function markersOf(command: string): TableMarkers {
  return {
    begin: `<!-- ${command} --write: begin -->`,
    end: `<!-- ${command} --write: end -->`,
  };
}

/**
 * The document with these rows between the markers; rows that are not given stay as they are.
 * Throws unless it has the markers, in order.
 */
export function updateTable(
  text: string,
  { begin, end }: TableMarkers,
  { head, rows }: { readonly head: readonly string[]; readonly rows: readonly TableRow[] },
): string {
  const [from, to] = [text.indexOf(begin), text.indexOf(end)];
  if (from === -1 || to < from) throw new Error(`The document lacks "${begin}" or its end`);
  const before = text.slice(from + begin.length, to).split('\n');
  const lines = rows.flatMap(({ key, values }) => {
    if (values !== undefined) return [line([...key, ...values])];
    return before.filter((old) => old.startsWith(line(key)));
  });
  const table = [line(head), line(head.map(() => '---')), ...lines].join('\n');
  return `${text.slice(0, from)}${begin}\n${table}\n${text.slice(to)}`;
}

function line(cells: readonly string[]): string {
  return `| ${cells.join(' | ')} |`;
}
