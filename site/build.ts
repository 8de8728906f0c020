/**
 * Builds the documentation from the sources, the READMEs and `docs`: npm run docs [-- FOLDER]
 *
 * One conversion of all packages, so that links between them lead somewhere. A package's README is the beginning of its
 * page. Whatever typedoc warns of (a public symbol without a comment, a broken link) fails the build.
 */
import { dirname, join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import {
  Application, type Context, Converter, type DeclarationReflection, DocumentReflection, MinimalSourceFile, normalizePath, type ProjectReflection, ReflectionKind
} from 'typedoc'
import { entryPoints, packages, root } from '../tools/packages.ts'
import { type Document, documents, frontPage, pagePaths, readmes } from './documents.ts'
import { REPOSITORY, rewriteLinks } from './links.ts'

/** Everything that can be imported, by its source. */
const modules = new Map(packages().flatMap(entryPoints).map((entry) => [entry.source, entry]))

/** Builds the site into a folder. False where something was warned of: it stands on the standard error. */
export async function buildSite (folder: string): Promise<boolean> {
  const app = await Application.bootstrap({
    name: 'node-vmm',
    entryPoints: [...modules.keys()],
    tsconfig: join(root, 'site/tsconfig.json'),
    // Types are checked elsewhere.
    skipErrorChecking: true,
    readme: 'none',
    customCss: join(root, 'site/style.css'),
    disableGit: true,
    gitRevision: 'main',
    sourceLinkTemplate: `${REPOSITORY}/blob/{gitRevision}/{path}#L{line}`,
    displayBasePath: root,
    excludePrivate: true,
    excludeInternal: true,
    highlightLanguages: ['typescript', 'javascript', 'json', 'console', 'sh', 'xml', 'ini'],
    navigationLinks: { GitHub: REPOSITORY },
    validation: { notExported: true, invalidLink: true, invalidPath: true, rewrittenLink: true, notDocumented: true },
    // Not properties: the names and types of most say it, as those of the protocols' tables do.
    requiredToBeDocumented: ['Namespace', 'Enum', 'Variable', 'Function', 'Class', 'Interface', 'Method', 'Accessor', 'TypeAlias'],
    packagesRequiringDocumentation: packages().map((name) => `@node-vmm/${name}`),
    logLevel: 'Warn'
  })
  app.converter.on(Converter.EVENT_RESOLVE_BEGIN, (context) => addDocuments(app, context))
  const project = await app.convert()
  if (project === undefined) return false
  app.validate(project)
  await app.generateDocs(project, folder)
  return !app.logger.hasErrors() && !app.logger.hasWarnings()
}

/** Names the modules as one imports them, and adds the documents before links are resolved. */
function addDocuments (app: Application, { project }: Context): void {
  const front = frontPage()
  const ofPackages = readmes()
  const others = documents()
  const pages = pagePaths([front, ...ofPackages.values(), ...others])

  const content = ({ path, text: original }: Pick<Document, 'path' | 'text'>): DocumentReflection['content'] => {
    const { text, broken } = rewriteLinks(path, original, (target) => pages.has(target))
    for (const target of broken) app.logger.warn(`${path}: the link to ${target} leads nowhere`)
    return app.converter.parseRawComment(new MinimalSourceFile(text, normalizePath(path)), project.files).content
  }
  const isPageOf = (reflection: DeclarationReflection | DocumentReflection | ProjectReflection, { path }: Document): void => {
    for (const leading of pagePaths([{ path } as Document])) project.files.registerReflectionPath(normalizePath(leading), reflection)
  }

  project.readme = content(untitled(front))
  isPageOf(project, front)
  for (const reflection of project.getReflectionsByKind(ReflectionKind.Module) as DeclarationReflection[]) {
    const { name, source } = modules.get(reflection.sources![0]!.fullFileName)!
    reflection.name = name
    // Only the package itself has its README: dirname of src.
    const readme = ofPackages.get(dirname(dirname(source)))
    if (readme === undefined || name.split('/').length > 2) continue
    reflection.readme = content(untitled(readme))
    isPageOf(reflection, readme)
  }
  for (const document of others) {
    const page = new DocumentReflection(document.title, project, content(document), {})
    project.addChild(page)
    project.registerReflection(page, undefined, normalizePath(document.path))
    isPageOf(page, document)
  }
}

/** Without its first heading: typedoc has one of its own on the front page and on a package's page. */
function untitled ({ path, text }: Document): Pick<Document, 'path' | 'text'> {
  return { path, text: text.replace(/^# .*$/m, '') }
}

if (import.meta.url === pathToFileURL(process.argv[1]!).href) {
  const folder = resolve(process.argv[2] ?? join(root, 'site/dist'))
  const started = Date.now()
  if (!await buildSite(folder)) process.exitCode = 1
  console.log(`${folder}: built in ${((Date.now() - started) / 1000).toFixed(1)} s${process.exitCode === 1 ? ', with warnings' : ''}`)
}
