// What a user reads of the API is written at its source. Functions, classes and types without a comment fail the site's
// build (test/site); here are their members, and the options.
import { deepEqual, ok } from 'node:assert/strict'
import { relative } from 'node:path'
import ts from 'typescript'
import { test } from 'uvu'
import { entryPoints, packages, root } from '../../tools/packages.ts'

const sources = packages().flatMap(entryPoints).map(({ source }) => source)
const { options } = ts.parseJsonConfigFileContent(ts.readConfigFile(`${root}/tsconfig.json`, ts.sys.readFile).config, ts.sys, root)
const program = ts.createProgram(sources, options)
const checker = program.getTypeChecker()

/** Where each public symbol of ours is declared, once. */
const declarations = new Set(sources.flatMap((source) => checker.getExportsOfModule(checker.getSymbolAtLocation(program.getSourceFile(source)!)!)
  .flatMap((symbol) => (symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol).declarations ?? [])
  .filter((declaration) => relative(`${root}/packages`, declaration.getSourceFile().fileName).startsWith('..') === false)))

type Member = ts.ClassElement | ts.TypeElement

/** Members that one sees from outside. */
function membersOf (declaration: ts.Declaration): Member[] {
  if (!ts.isClassDeclaration(declaration) && !ts.isInterfaceDeclaration(declaration)) return []
  return [...declaration.members].filter((member) => {
    const isHidden = (ts.getCombinedModifierFlags(member) & ts.ModifierFlags.Private) !== 0 || (member.name !== undefined && ts.isPrivateIdentifier(member.name))
    // The constructor of an error is for its package. An error's name says it.
    const isOfError = declaration.name!.text.endsWith('Error') && (ts.isConstructorDeclaration(member) || member.name?.getText() === 'name')
    return !isHidden && !isOfError && !ts.isClassStaticBlockDeclaration(member)
  })
}

/** Its own comment, or that of what it implements or overrides. */
function isDocumented (member: Member): boolean {
  if (ts.getJSDocCommentsAndTags(member).length > 0) return true
  if (ts.isConstructorDeclaration(member)) return member.parameters.length === 0
  const symbol = member.name && checker.getSymbolAtLocation(member.name)
  return symbol !== undefined && symbol.getDocumentationComment(checker).length > 0
}

/** What may be left out, however deep in a type. */
function optionsOf (declaration: ts.Node): ts.TypeElement[] {
  const found: ts.TypeElement[] = []
  const visit = (node: ts.Node): void => {
    if (ts.isTypeElement(node) && node.questionToken !== undefined) found.push(node)
    if (!ts.isBlock(node) && !isPrivate(node)) ts.forEachChild(node, visit)
  }
  visit(declaration)
  return found
}

function isPrivate (node: ts.Node): boolean {
  return ts.isClassElement(node) && node.name !== undefined && ts.isPrivateIdentifier(node.name)
}

function saysDefault (option: ts.TypeElement): boolean {
  return ts.getJSDocTags(option).some(({ tagName }) => tagName.text === 'default')
}

function place (node: ts.NamedDeclaration): string {
  const file = node.getSourceFile()
  return `${relative(root, file.fileName)}:${file.getLineAndCharacterOfPosition(node.getStart()).line + 1} ${node.name?.getText() ?? 'constructor'}`
}

test('every member of a public class or interface has a comment', () => {
  const members = [...declarations].flatMap(membersOf)
  ok(members.length > 500, `only ${members.length} were found`)
  deepEqual(members.filter((member) => !isDocumented(member)).map(place), [], 'say what it is: unit, range, who owns it')
})

test('whatever may be left out says what that means', () => {
  const all = [...declarations].flatMap(optionsOf)
  ok(all.length > 150, `only ${all.length} were found`)
  deepEqual(all.filter((option) => !saysDefault(option)).map(place), [], 'add @default: a value, or what happens without')
})

test.run()
