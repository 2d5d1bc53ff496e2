// Completion scripts, written from the commands' own definitions so that they never fall behind.
#include "app/spartan/command.h"
#include "app/spartan/console.h"
#include "core/base/text.h"

#include <algorithm>
#include <memory>

namespace spartan {
namespace {

struct Completion {
    std::string command, description;
    std::vector<std::pair<std::string, std::string>> options;  // flag, description; of inner commands as well
    std::vector<std::string> words;                            // of its positional argument
};

using Options = std::vector<std::pair<std::string, std::string>>;

std::vector<const CLI::App*> visible_commands(const CLI::App& app) {
    return app.get_subcommands([](const CLI::App* c) { return !c->get_group().empty(); });
}

void add_new(Options& all, const Options& more) {
    for (const auto& option : more)
        if (std::none_of(all.begin(), all.end(), [&](const auto& o) { return o.first == option.first; }))
            all.push_back(option);
}

// The command's own, and those of the commands below it.
Options options_of(const CLI::App& app) {
    Options all;
    for (const CLI::Option* option : app.get_options())
        for (const std::string& name : option->get_lnames()) all.emplace_back("--" + name, option->get_description());
    if (app.get_parent())
        for (const CLI::App* command : visible_commands(app)) add_new(all, options_of(*command));
    return all;
}

std::vector<Completion> describe(const CLI::App& app) {
    std::vector<Completion> all;
    const auto global = options_of(app);
    for (const CLI::App* command : visible_commands(app)) {
        Completion c{command->get_name(), command->get_description(), options_of(*command), {}};
        add_new(c.options, global);
        for (const CLI::App* inner : visible_commands(*command)) c.words.push_back(inner->get_name());
        if (c.command == "completion") c.words = {"bash", "zsh", "fish"};
        all.push_back(std::move(c));
    }
    return all;
}

std::string flags_of(const Completion& c) {
    std::vector<std::string> flags = c.words;
    for (const auto& [flag, unused] : c.options) flags.push_back(flag);
    return join(flags, " ");
}

std::string single_quoted(std::string text) {
    for (size_t at = 0; (at = text.find('\'', at)) != std::string::npos; at += 4) text.replace(at, 1, "'\\''");
    return "'" + text + "'";
}

std::string names_of(const std::vector<Completion>& all) {
    std::vector<std::string> names;
    for (const Completion& c : all) names.push_back(c.command);
    return join(names, " ");
}

// Both shells: the command's flags; before there is a command, the commands and the global flags.
std::string cases_of(const std::vector<Completion>& all, const Options& global) {
    std::string out;
    for (const Completion& c : all) out += "    " + c.command + ") flags=" + single_quoted(flags_of(c)) + " ;;\n";
    std::string first = names_of(all);
    for (const auto& [flag, unused] : global) first += " " + flag;
    return out + "    *) flags=" + single_quoted(first) + " ;;\n";
}

// The command is the first word that names one: global options and their values may come before it.
std::string bash_script(const std::vector<Completion>& all, const Options& global) {
    return "_spartan() {\n"
           "  local current=${COMP_WORDS[COMP_CWORD]} command= flags word\n"
           "  for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n"
           "    case \" " +
           names_of(all) +
           " \" in *\" $word \"*) command=$word; break ;; esac\n"
           "  done\n"
           "  case $command in\n" +
           cases_of(all, global) +
           "  esac\n"
           "  COMPREPLY=($(compgen -W \"$flags\" -- \"$current\"))\n"
           "}\n"
           "complete -o default -o bashdefault -F _spartan spartan\n";
}

// As a file in fpath it is the body of the function that defines itself: the first time it must also be called.
std::string zsh_script(const std::vector<Completion>& all, const Options& global) {
    return "#compdef spartan\n"
           "_spartan() {\n"
           "  local command= flags= word\n"
           "  local -a known\n"
           "  known=(" +
           names_of(all) +
           ")\n"
           "  for word in ${words[2,CURRENT-1]}; do\n"
           "    if (( ${known[(Ie)$word]} )); then command=$word; break; fi\n"
           "  done\n"
           "  case $command in\n" +
           cases_of(all, global) +
           "  esac\n"
           "  known=(${=flags})\n"
           "  compadd -- $known\n"
           "  [[ -z $command ]] || _files\n"
           "}\n"
           "if [[ $funcstack[1] = _spartan ]]; then _spartan \"$@\"; else compdef _spartan spartan; fi\n";
}

std::string fish_script(const std::vector<Completion>& all) {
    std::string out = "complete -c spartan -f -n __fish_use_subcommand -l help -l version\n";
    for (const Completion& c : all) {
        out += "complete -c spartan -f -n __fish_use_subcommand -a " + c.command + " -d " +
               single_quoted(c.description) + "\n";
        const std::string seen = " -n '__fish_seen_subcommand_from " + c.command + "'";
        for (const auto& [flag, description] : c.options)
            out += "complete -c spartan" + seen + " -l " + flag.substr(2) + " -d " + single_quoted(description) + "\n";
        if (!c.words.empty())
            out += "complete -c spartan -f" + seen + " -a " + single_quoted(join(c.words, " ")) + "\n";
    }
    return out;
}

}  // namespace

void add_completion(CLI::App& app, GlobalOptions&, Action& action) {
    CLI::App* command = add_command(app, "completion", "A completion script for bash, zsh or fish",
                                    {"source <(spartan completion bash)          for this shell",
                                     "spartan completion bash > ~/.local/share/bash-completion/completions/spartan",
                                     "spartan completion zsh > ~/.zfunc/_spartan  with ~/.zfunc in fpath",
                                     "spartan completion fish > ~/.config/fish/completions/spartan.fish"});
    auto shell = std::make_shared<std::string>();
    command->add_option("SHELL", *shell, "bash, zsh or fish")
        ->type_name("")
        ->required()
        ->check(one_of({"bash", "zsh", "fish"}));
    command->callback([&app, &action, shell] {
        action = [&app, shell] {
            const auto all = describe(app);
            const Options global = options_of(app);
            print(*shell == "bash"  ? bash_script(all, global)
                  : *shell == "zsh" ? zsh_script(all, global)
                                    : fish_script(all));
            return kDone;
        };
    });
}

}  // namespace spartan
