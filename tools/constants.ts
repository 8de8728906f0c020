import ts from 'typescript'
import type { Edit } from './rewriting.ts'

/** What a constant may be computed by. */
const OPERATORS: Partial<Record<ts.SyntaxKind, (left: number, right: number) => number>> = {
  [ts.SyntaxKind.PlusToken]: (left, right) => left + right,
  [ts.SyntaxKind.MinusToken]: (left, right) => left - right,
  [ts.SyntaxKind.AsteriskToken]: (left, right) => left * right,
  [ts.SyntaxKind.SlashToken]: (left, right) => left / right,
  [ts.SyntaxKind.AsteriskAsteriskToken]: (left, right) => left ** right,
  [ts.SyntaxKind.LessThanLessThanToken]: (left, right) => left << right,
  [ts.SyntaxKind.AmpersandToken]: (left, right) => left & right,
  [ts.SyntaxKind.BarToken]: (left, right) => left | right
}

/**
 * Has numbers in place of the constants that stand for them. A bundle's constants are variables, and those of another module
 * are looked up wherever they are used: V8 takes neither for the numbers that they are, and hot code computes with what might
 * be anything.
 *
 * A constant is what a module declares `const` with a type of one number, or computes from numbers and such constants.
 */
export function constants (source: ts.SourceFile, checker: ts.TypeChecker): Edit[] {
  const edits: Edit[] = []
  const visit = (node: ts.Node): void => {
    const number = ts.isIdentifier(node) && isOperand(node) ? numberOf(node, checker) : undefined
    if (number === undefined) return ts.forEachChild(node, visit)
    edits.push({ start: node.getStart(), end: node.end, text: number < 0 ? `(${number})` : String(number) })
  }
  visit(source)
  return edits
}

/** Whether a name stands where a number may. */
function isOperand ({ parent }: ts.Identifier): boolean {
  return ts.isBinaryExpression(parent) || ts.isPrefixUnaryExpression(parent) || ts.isParenthesizedExpression(parent) ||
    ts.isConditionalExpression(parent) || ts.isReturnStatement(parent) || ts.isCaseClause(parent) || ts.isElementAccessExpression(parent) ||
    ts.isCallExpression(parent) || ts.isNewExpression(parent)
}

function numberOf (name: ts.Identifier, checker: ts.TypeChecker): number | undefined {
  const symbol = checker.getSymbolAtLocation(name)
  const { valueDeclaration: declaration } = symbol !== undefined && (symbol.flags & ts.SymbolFlags.Alias) !== 0 ? checker.getAliasedSymbol(symbol) : symbol ?? {}
  if (declaration === undefined || !ts.isVariableDeclaration(declaration) || !isConstOfModule(declaration.parent)) return undefined
  const type = checker.getTypeAtLocation(declaration)
  return type.isNumberLiteral() ? type.value : valueOf(declaration.initializer, checker)
}

function valueOf (node: ts.Expression | undefined, checker: ts.TypeChecker): number | undefined {
  if (node === undefined) return undefined
  if (ts.isNumericLiteral(node)) return Number(node.text)
  if (ts.isIdentifier(node)) return numberOf(node, checker)
  if (ts.isParenthesizedExpression(node)) return valueOf(node.expression, checker)
  if (!ts.isBinaryExpression(node)) return undefined
  const [left, right] = [valueOf(node.left, checker), valueOf(node.right, checker)]
  return left === undefined || right === undefined ? undefined : OPERATORS[node.operatorToken.kind]?.(left, right)
}

function isConstOfModule (list: ts.Node): boolean {
  return (list.flags & ts.NodeFlags.Const) !== 0 && ts.isVariableStatement(list.parent) && ts.isSourceFile(list.parent.parent)
}
