/**
 * Manual pages in troff with the man macros (man 7 groff_man): text in, one page out. Pure.
 *
 * A page is a list of blocks; `fromMarkdown` makes blocks of the little Markdown that docs/ uses.
 */

/** A part of a page; the texts may have `code`, **bold** and [links](x) in them. */
export type Block =
  | { readonly kind: 'section' | 'subsection' | 'paragraph' | 'bullet'; readonly text: string }
  | { readonly kind: 'code'; readonly lines: readonly string[] }
  /** A term and what is said of it. */
  | { readonly kind: 'entry'; readonly term: string; readonly text: string };

export interface Page {
  readonly name: string;
  readonly section: number;
  readonly version: string;
  readonly blocks: readonly Block[];
}

/** The whole file. The date is left out, so that equal sources give equal bytes. */
export function formatPage(page: Page): string {
  const title = `.TH ${page.name.toUpperCase()} ${page.section} "" "Colo ${page.version}" "Colo"`;
  // No hyphenation, no justification: commands must be copied as they are.
  return `${[title, '.nh', '.ad l', ...page.blocks.flatMap(formatBlock)].join('\n')}\n`;
}

function formatBlock(block: Block): string[] {
  switch (block.kind) {
    case 'section':
      return [`.SH ${inline(block.text.toUpperCase())}`];
    case 'subsection':
      return [`.SS "${inline(block.text).replaceAll('"', '\\(dq')}"`];
    case 'paragraph':
      return ['.PP', textLine(block.text)];
    case 'bullet':
      return ['.IP \\(bu 2', textLine(block.text)];
    case 'code':
      return [
        '.PP',
        '.RS 4',
        '.nf',
        ...block.lines.map((line) => guard(escapeTroff(line))),
        '.fi',
        '.RE',
      ];
    case 'entry':
      return ['.TP', `\\fB${escapeTroff(block.term)}\\fR`, textLine(block.text)];
  }
}

/** Text as one line of source: groff fills lines itself. */
function textLine(text: string): string {
  return guard(inline(text));
}

function inline(text: string): string {
  const parts = text.replace(/\[([^\]]+)\]\([^)]+\)/g, '$1').split(/(`[^`]+`|\*\*[^*]+\*\*)/);
  return parts
    .map((part) => {
      const strong = /^`(.+)`$/.exec(part)?.[1] ?? /^\*\*(.+)\*\*$/.exec(part)?.[1];
      return strong === undefined ? escapeTroff(part) : `\\fB${escapeTroff(strong)}\\fR`;
    })
    .join('');
}

/** What troff would take for its own; "-" becomes the one that shells know. */
function escapeTroff(text: string): string {
  return text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replaceAll("'", '\\(aq')
    .replaceAll('^', '\\(ha')
    .replaceAll('~', '\\(ti')
    .replaceAll('`', '\\(ga');
}

/** A line that starts with a dot would be a request. */
function guard(line: string): string {
  return /^[.]/.test(line) ? `\\&${line}` : line;
}

/**
 * Blocks of Markdown: headings below `##`, paragraphs, bullets, indented and fenced code, and
 * tables, whose rows become entries of their first cell. Anything else throws.
 */
export function fromMarkdown(markdown: string): Block[] {
  const blocks: Block[] = [];
  const chunks = markdown.replace(/\n(?=### |- )/g, '\n\n').split(/\n{2,}/);
  for (const chunk of chunks) {
    const lines = chunk.split('\n').filter((line) => line.trim() !== '');
    const [first = ''] = lines;
    const joined = lines.map((line) => line.trim()).join(' ');
    if (first === '') continue;
    if (first.startsWith('### ')) {
      blocks.push({ kind: 'subsection', text: first.slice(4) });
      blocks.push(...fromMarkdown(lines.slice(1).join('\n')));
    } else if (first.startsWith('```')) blocks.push({ kind: 'code', lines: lines.slice(1, -1) });
    else if (first.startsWith('    ')) {
      blocks.push({ kind: 'code', lines: lines.map((line) => line.slice(4)) });
    } else if (first.startsWith('|')) blocks.push(...lines.slice(2).map(entryOfRow));
    else if (first.startsWith('- ')) blocks.push({ kind: 'bullet', text: joined.slice(2) });
    else if (/^[#>]/.test(first)) throw new Error(`Found ${first}, expected simpler Markdown`);
    else blocks.push({ kind: 'paragraph', text: joined });
  }
  return blocks;
}

function entryOfRow(row: string): Block {
  const cells = row.split('|').slice(1, -1);
  const [term = '', ...others] = cells.map((cell) => cell.trim());
  const text = others.filter((cell) => cell !== '').join('; ');
  return { kind: 'entry', term: term.replaceAll('`', ''), text: text === '' ? ' ' : text };
}

/** The text below a heading such as `## The file`, up to the next of its rank. */
export function sectionOf(markdown: string, heading: string): string {
  const rank = /^#+/.exec(heading)?.[0].length ?? 0;
  const start = markdown.indexOf(`\n${heading}\n`);
  if (start === -1) throw new Error(`Found no heading ${JSON.stringify(heading)}`);
  const rest = markdown.slice(start + heading.length + 2);
  const end = rest.search(new RegExp(`^#{1,${rank}} `, 'm'));
  // Not the spaces of the first line: they make it code.
  return (end === -1 ? rest : rest.slice(0, end)).replace(/^\n+|\s+$/g, '');
}
