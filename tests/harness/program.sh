#!/bin/sh
# An MCP server on standard input and output, in the shell: what it does is named by its tools and by its mood.
# Usage: program.sh FOLDER ERA MOOD [WORD...]
# In FOLDER it keeps: started (its process ids), seen.PID (every line it got), environ, words, grandchildren.
folder=$1 era=$2 mood=$3
echo "$$" >>"$folder/started"
[ "$mood" = crashing ] && exit 3
shift 3
for word; do printf '%s\n' "$word"; done >"$folder/words"
cat "/proc/$$/environ" >"$folder/environ"
pwd >"$folder/directory"

case $mood in
stubborn) trap '' TERM; sleep 1000 & echo "$!" >>"$folder/grandchildren" ;;
prolific) sleep 1000 >/dev/null 2>&1 & echo "$!" >>"$folder/grandchildren" ;;
noisy)
  i=0
  while [ "$i" -lt 5000 ]; do
    echo "complaint $i complaint complaint complaint complaint complaint complaint complaint complaint" >&2
    i=$((i + 1))
  done
  printf 'a banner\n\n  \nnot { json\n[]\n{"jsonrpc":"1.0","id":1}\n'
  printf '%s' 'a line of complaints without end ' >&2
  ;;
esac

say() { printf '%s\n' "$1"; }
result() {
  complete=
  [ "$era" = modern ] && complete='"resultType":"complete",'
  say "{\"jsonrpc\":\"2.0\",\"id\":$id,\"result\":{$complete$1}}"
}
text() { result "\"content\":[{\"type\":\"text\",\"text\":\"$1\"}]"; }

call() {
  name=${1#*\"params\":\{\"name\":\"} name=${name%%\"*}
  case $name in
  die) exit 7 ;;
  hang) ;;
  garbage) i=0; while [ "$i" -lt 300 ]; do say "garbage $i"; i=$((i + 1)); done ;;
  endless) while :; do printf '%s' 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'; done ;;
  large) text "$(head -c 200000 /dev/zero | tr '\0' x)" ;;
  secret) text "the key is $API_KEY" ;;
  ask)
    say '{"jsonrpc":"2.0","id":"asked","method":"sampling/createMessage","params":{"messages":[],"maxTokens":1}}'
    IFS= read -r line
    printf '%s\n' "$line" >>"$folder/seen.$$"
    text 'asked'
    ;;
  stranger)
    say '{"jsonrpc":"2.0","id":999999,"result":{"content":[]}}'
    text 'mine'
    ;;
  turned | begun)
    token=${1#*'"progressToken":'} token=${token%%[,\}]*}
    [ "$name" = begun ] && say "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":$token,\"progress\":1}}"
    say "{\"jsonrpc\":\"2.0\",\"id\":$id,\"error\":{\"code\":-32020,\"message\":\"not so\"}}"
    ;;
  *) text "$$" ;;
  esac
}

while IFS= read -r line; do
  printf '%s\n' "$line" >>"$folder/seen.$$"
  id=${line#*\"id\":} id=${id%%,*}
  case $line in
  *'"method":"server/discover"'*)
    if [ "$mood" = waking ] && [ ! -e "$folder/asked" ]; then
      : >"$folder/asked"
    elif [ "$era" = modern ]; then
      result '"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"ttlMs":600000,"cacheScope":"private","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"program","version":"1"}}'
    else
      say "{\"jsonrpc\":\"2.0\",\"id\":$id,\"error\":{\"code\":-32601,\"message\":\"no such method\"}}"
    fi
    ;;
  *'"method":"initialize"'*)
    version=2025-11-25
    [ "$mood" = old ] && version=2024-11-05
    result '"protocolVersion":"'$version'","capabilities":{"tools":{}},"serverInfo":{"name":"program","version":"1"}'
    ;;
  *'"method":"tools/list"'*)
    tools=
    for name in pid die hang garbage endless large secret ask stranger turned begun; do
      tools="$tools${tools:+,}{\"name\":\"$name\",\"inputSchema\":{\"type\":\"object\"}}"
    done
    result "\"ttlMs\":600000,\"cacheScope\":\"private\",\"tools\":[$tools]"
    ;;
  *'"method":"tools/call"'*) call "$line" ;;
  esac
done

[ "$mood" = stubborn ] && while :; do sleep 1000; done
exit 0
