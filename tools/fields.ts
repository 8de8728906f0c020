import ts from 'typescript'
import type { Edit } from './rewriting.ts'

/**
 * Has the fields that a constructor sets not declared. A declaration without a value is a store of `undefined`, and V8 goes by
 * the first thing that it sees in a field: it takes the number or the object that the constructor stores there next for what
 * may be anything, and looks at its type at each use. Private names cannot do without a declaration: such a field becomes a
 * property that only its class knows the name of.
 *
 * Fields whose type has `undefined` stay as they are: they may be set later, or never, and objects with them would have
 * several shapes.
 */
export function fields (source: ts.SourceFile, checker: ts.TypeChecker): Edit[] {
  const edits: Edit[] = []
  const names = new Map<ts.Symbol, string>()
  const declare = (node: ts.Node): void => {
    if (ts.isClassDeclaration(node) && node.name !== undefined) {
      for (const member of node.members) {
        if (!ts.isPropertyDeclaration(member) || !isSetByConstructor(member, checker)) continue
        if (ts.isPrivateIdentifier(member.name)) names.set(checker.getSymbolAtLocation(member.name)!, `_${node.name.text}_${member.name.text.slice(1)}`)
        edits.push({ start: member.getStart(), end: member.end, text: '' })
      }
    }
    ts.forEachChild(node, declare)
  }
  declare(source)
  const use = (node: ts.Node): void => {
    if (ts.isPrivateIdentifier(node) && !ts.isPropertyDeclaration(node.parent)) {
      const name = names.get(checker.getSymbolAtLocation(node)!)
      if (name !== undefined) edits.push({ start: node.getStart(), end: node.end, text: ts.isPropertyAccessExpression(node.parent) ? name : `'${name}'` })
    }
    ts.forEachChild(node, use)
  }
  use(source)
  return edits
}

/** As the compiler sees to it, of each field that has neither a value nor a type with `undefined`. */
function isSetByConstructor (member: ts.PropertyDeclaration, checker: ts.TypeChecker): boolean {
  if (member.initializer !== undefined || member.questionToken !== undefined || member.exclamationToken !== undefined) return false
  if ((ts.getCombinedModifierFlags(member) & (ts.ModifierFlags.Static | ts.ModifierFlags.Ambient | ts.ModifierFlags.Abstract)) !== 0) return false
  const type = checker.getTypeAtLocation(member)
  return !(type.isUnion() ? type.types : [type]).some(({ flags }) => (flags & (ts.TypeFlags.Undefined | ts.TypeFlags.Any | ts.TypeFlags.Unknown)) !== 0)
}
