import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { packages, root } from '../tools/packages.ts'

/** A file in Markdown that is a page of the site. */
export interface Document {
  /** An absolute path. */
  readonly path: string
  readonly text: string
  /** Its first heading. */
  readonly title: string
}

/** The documents that are pages of their own: `docs`, the examples, and those that the README leads to. */
export function documents (): Document[] {
  const docs = readdirSync(join(root, 'docs')).filter((name) => name.endsWith('.md')).sort().map((name) => join('docs', name))
  const examples = readdirSync(join(root, 'examples')).sort().map((name) => join('examples', name, 'README.md'))
  const paths = [...docs, ...examples, 'bench/README.md', 'CONTRIBUTING.md', 'SECURITY.md']
  return paths.map((path) => join(root, path)).filter((path) => existsSync(path)).map(read)
}

/** The front page. */
export function frontPage (): Document {
  return read(join(root, 'README.md'))
}

/** Each package's README, by the package's folder: the beginning of its page. */
export function readmes (): Map<string, Document> {
  return new Map(packages().map((name) => join(root, 'packages', name))
    .filter((folder) => existsSync(join(folder, 'README.md')))
    .map((folder) => [folder, read(join(folder, 'README.md'))]))
}

/** Every path that leads to a page: a document's, and its folder's where the document is called README.md. */
export function pagePaths (all: Iterable<Document>): Set<string> {
  return new Set([...all].flatMap(({ path }) => path.endsWith('/README.md') ? [path, dirname(path)] : [path]))
}

function read (path: string): Document {
  const text = readFileSync(path, 'utf8')
  return { path, text, title: /^# (.*)$/m.exec(text)?.[1]!.replaceAll('`', '') ?? path }
}
