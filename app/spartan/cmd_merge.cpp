#include "app/spartan/new_folder.h"
#include "app/spartan/session.h"
#include "core/adapter/merge.h"
#include "core/base/text.h"

#include <filesystem>
#include <memory>

namespace spartan {
namespace {

struct MergeArguments {
    std::string model, adapter, out;
};

// bf16 where the base's file is bf16 and nothing else was asked for; the arithmetic is fp32 anyway.
Result<DType> stored_dtype(const GlobalOptions& options, const Model& model) {
    if (options.dtype == "auto") return model.info.dtype == "BF16" ? DType::bf16 : DType::f32;
    TRY_ASSIGN(precision, chosen_precision(options));
    if (precision.dtype == DType::f16) return Error{"--dtype", "", "f16", "f32, bf16 or auto for merged weights"};
    return precision.dtype;
}

void warn_of_own_files(const std::string& adapter, std::vector<std::string>& warnings) {
    for (const char* name : {"tokenizer.json", "chat_template.jinja"}) {
        std::error_code ignored;
        if (std::filesystem::exists(adapter + "/" + name, ignored))
            warnings.push_back("the adapter's folder has a " + std::string(name) +
                               " of its own; the base's was copied");
    }
}

Result<void> merge(const GlobalOptions& options, const MergeArguments& o, Progress& progress) {
    TRY_ASSIGN(opened, open_model(o.model, options.seed_or()));
    if (opened.source != "safetensors")
        return Error{o.model, "", "a model from " + opened.source,
                     "a Hugging Face folder, whose config and tokenizer the merged model takes"};
    TRY_ASSIGN(folder, NewFolder::create(o.out));
    GlobalOptions exact = options;
    exact.dtype = "f32";
    exact.weights = "convert";
    ProgressLine line;
    std::vector<std::string> warnings;
    TRY_ASSIGN(model, load_session_model(exact, o.model, options.seed_or(), progress, line, warnings));
    line.show("Loading the adapter");
    TRY_ASSIGN(adapter, load_adapter("adapter", o.adapter, *model, progress));
    warnings.insert(warnings.end(), adapter->warnings.begin(), adapter->warnings.end());
    warn_of_own_files(o.adapter, warnings);
    TRY_ASSIGN(dtype, stored_dtype(options, *model));
    TRY_ASSIGN(report, with_progress(line, "Merging", progress, [&] {
                   return write_merged(*model, *adapter, dtype, folder.inside("."), progress);
               }));
    TRY_VOID(folder.commit());
    if (report.untied)
        warnings.push_back(
            "embedding and output head were one tensor; the adapter makes them differ, so the merged model "
            "has two and says tie_word_embeddings false");
    warn(warnings);
    print("Merged " + for_output(adapter->geometry()) + " into " + for_output(o.out) + ", " +
          format_bytes(report.bytes) + " in " + name_of(dtype) + "\n");
    return {};
}

}  // namespace

void add_merge(CLI::App& app, GlobalOptions& options, Action& action) {
    CLI::App* command = add_command(
        app, "merge", "Multiply an adapter into a model's weights: a Hugging Face folder, as PEFT's merge_and_unload()",
        {"spartan merge ~/models/Llama-3.2-1B adapters/pirate --out ~/models/Llama-3.2-1B-pirate",
         "spartan merge ~/models/Qwen3-0.6B adapters/law --out merged --dtype f32"});
    auto o = std::make_shared<MergeArguments>();
    command->add_option("MODEL", o->model, "A Hugging Face folder")
        ->type_name("")
        ->check(not_empty("a Hugging Face folder"))
        ->required();
    command->add_option("ADAPTER", o->adapter, "A PEFT adapter's folder")
        ->type_name("")
        ->check(not_empty("an adapter's folder"))
        ->required();
    command->add_option("--out", o->out, "A new or empty folder; nothing is overwritten")
        ->type_name("FOLDER")
        ->check(not_empty("a new or empty folder"))
        ->required();
    command->callback([&options, &action, o] {
        action = [&options, o] { return perform([&](Progress& progress) { return merge(options, *o, progress); }); };
    });
}

}  // namespace spartan
